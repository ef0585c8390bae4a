//! Device tests: agents and pods where the kernel has devices that not every kernel has, its own IPIP tunnel, VLANs, bonds.
//! In: the built programs, the modules `ipip`, `8021q` and `bonding`. Out: what a user would see of them.
//! Invariant: each test has a cluster of its own.
//! Never: skips; where a module is missing a test fails and says so. `cargo xtask vm` brings kernels that have them.

mod tunl0;
mod uplinks;
