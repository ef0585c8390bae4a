//! The bench.
//! In: nothing. Out: nothing.
fn main() {}
