//! The demo.
//! In: nothing. Out: nothing.
fn main() {}
