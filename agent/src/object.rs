//! The kernel programs this agent was built with.
//! In: `bpf/tortie.o` at build time. Out: its bytes.
//! Invariant: aligned for readers of ELF structures.
//! Never: read from a file at run time.

#[repr(align(32))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("TORTIE_OBJECT")));

/// The compiled kernel programs, an ELF object.
pub fn bytes() -> &'static [u8] {
    &OBJECT.0
}
