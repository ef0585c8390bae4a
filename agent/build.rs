//! Finds the compiled kernel programs, so that the agent carries the ones it was built with.
//! In: `bpf/tortie.o` in the target folder. Out: its path, in TORTIE_OBJECT.
//! Invariant: the object in the binary is the one `cargo xtask build-ebpf` made last.
//! Never: builds the programs itself.

use std::{env, path::PathBuf, process};

fn main() {
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_DIR");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    // The target folder is one of the folders over OUT_DIR; how far up depends on --target and on the profile.
    let candidates = || out.ancestors().map(|dir| dir.join("bpf/tortie.o"));
    let Some(object) = candidates().find(|path| path.is_file()) else {
        // Watch the likely place, so that the next build looks again.
        if let Some(path) = candidates().nth(5) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
        eprintln!("the kernel programs are not built: run `cargo xtask build-ebpf` first");
        process::exit(1);
    };
    println!("cargo:rerun-if-changed={}", object.display());
    println!("cargo:rustc-env=TORTIE_OBJECT={}", object.display());
}
