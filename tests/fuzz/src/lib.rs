//! Fuzz targets: what comes from outside, as bytes, against what is promised about it.
//! In: any bytes. Out: nothing, or a panic that says which promise was broken.
//! Invariant: a target is a function of its bytes alone, so that an input that was found fails for everybody.
//! Never: needs root, writes outside a folder of its own, asks how long something took.
#![forbid(unsafe_code)]

pub mod corpus;
pub mod manifest;
pub mod parse;
pub mod protocol;
#[cfg(test)]
mod replay;
pub mod scene;
pub mod script;
pub mod selector;
pub mod state;
pub mod stdin;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("manifest", manifest::run),
    ("parse", parse::run),
    ("protocol", protocol::run),
    ("selector", selector::run),
    ("state", state::run),
    ("stdin", stdin::run),
];

/// The target of this name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}
