//! Who owns which address. Pure: decisions as values.
//! In: pools, blocks as they are, and a wish. Out: what to write, with the revision it was decided on.
//! Invariant: an address has at most one owner; what is released goes to the back of the block's queue.
//! Never: reads or writes a datastore, reads a clock.
#![forbid(unsafe_code)]
