//! What the kernel's verifier walked until it took each program: for the budget, and for whoever changes a program.
//! In: the loaded programs. Out: lines `verified PROGRAM COUNT`, which `cargo xtask vm` compares with ebpf/budget.toml.
//! Invariant: every program of the object is counted.
//! Never: a limit; that is the budget's.

use crate::kernel::{Kernel, on_a_node};

/// The verifier's own limit (`BPF_COMPLEXITY_LIMIT_INSNS`, include/linux/bpf.h).
const LIMIT: u32 = 1_000_000;

#[test]
fn the_verifier_takes_every_program_and_says_how_far_it_went() {
    on_a_node(|| {
        let counts = Kernel::bare().verified();
        assert!(counts.len() >= 6, "programs and twins");
        for (program, count) in counts {
            println!("verified {program} {count}");
            assert!(count > 0 && count < LIMIT, "{program}: {count}");
        }
    });
}
