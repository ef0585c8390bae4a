//! Apart: what is rare on a packet's way, as programs within the programs.
//! In: numbers, and the packet. Out: a number.
//! Invariant: the same stages as under test, each walked once by the verifier.
//! Never: on the way of every packet.

use aya_ebpf::bindings::__sk_buff;
use ebpf::tables::Tables as _;
use ebpf::{options, policy};

use crate::maps::Kernel;
use crate::packet::Skb;
use crate::scratch;

/// A program within the program. 0: they let the packet pass.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn options_apart(skb: *mut __sk_buff, header_len: u32) -> u32 {
    match options::check(&Skb(skb), header_len) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// A program within the program; it reads alone, so that dry ones may call it too.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn referred_apart(span: u64, own: u32, x: u32, source_port: u32) -> u64 {
    policy::referred(&Kernel::<true>, span, own, x, source_port)
}

/// A program within the program, as the one before. 0: it may not.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn speaks_apart(slot: u32, class: u32, generation: u64) -> u32 {
    u32::from(policy::speaks_for(&Kernel::<true>, slot, class, generation))
}

/// A program within the program. 0: done.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn pay_apart(place: u32) -> u32 {
    let (Some(state), Some(note)) = (scratch::state(), Kernel::<false>.note(place)) else {
        return 1;
    };
    note.pay_former(&Kernel::<false>, &mut state.key);
    0
}
