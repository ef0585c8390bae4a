//! What was found once stays found: every input of corpus and regressions, through its target.
//! In: the committed files. Out: which inputs broke a promise.
//! Invariant: runs without libFuzzer, with the compiler alone.
//! Never: stops at the first.

use crate::{TARGETS, corpus};
use std::panic::catch_unwind;

#[test]
fn every_input_that_was_kept_holds() {
    let mut broken = Vec::new();
    for (name, run) in TARGETS {
        let kept = corpus::read(&corpus::corpus(name)).expect("the corpus can be read");
        assert!(!kept.is_empty(), "{name} has no corpus");
        let found = corpus::read(&corpus::regressions(name)).expect("the regressions can be read");
        for input in kept.iter().chain(&found) {
            if catch_unwind(|| run(input)).is_err() {
                broken.push(format!("{name}: {}", corpus::line(input)));
            }
        }
    }
    assert!(broken.is_empty(), "{} inputs:\n{}", broken.len(), broken.join("\n"));
}
