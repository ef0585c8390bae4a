//! What a World resolves to, and that the way to it does not matter.
//! In: scenery of a few pods, policies and nodes. Out: Desired, in whole and in parts.
//! Invariant: rows of docs/conformance.md that a test holds stand in its name.
//! Never: I/O.

mod hosts;
mod joins;
mod language;
mod scenery;
mod sequences;
