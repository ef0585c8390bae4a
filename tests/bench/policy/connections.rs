//! New connections to a pod with one policy and with thousands.
//! In: the built programs. Out: their rates, against that with one policy.
//! Invariant: the policy that lets the client in is the last of all.
//! Never: counts a setup whose policies are not in force.

use crate::{
    figures::Figures,
    manifests::{self, WALL, somebody},
    progress,
    rounds::Rounds,
    setups::{Setup, Tortie},
};
use ::tests::{Binaries, traffic::Row};
use anyhow::Result;
use std::time::Instant;

/// The first is once more there, so that a run tells its own noise.
const SCALES: [(&str, &str, usize); 5] = [
    ("1 policy", "one", 1),
    ("1 policy, once more", "again", 1),
    ("100 policies", "hundred", 100),
    ("1,000 policies", "thousand", 1000),
    ("12,500 policies", "many", 12_500),
];

/// Runs it.
pub fn run(rounds: &Rounds, binaries: &Binaries) -> Result<Figures> {
    let scales = if rounds.quick { &SCALES[..3] } else { &SCALES[..] };
    let mut setups = Vec::new();
    for (name, stem, policies) in scales {
        progress(name);
        let setup = Tortie::create(name, stem, WALL, binaries.clone())?;
        setup.cluster.manifest("rules", &manifests::list(manifests::server(*policies, 1, somebody)))?;
        setup.door().until_connects(true, Instant::now())?;
        setups.push(setup);
    }
    rounds.run(&[Row::NewConnections], &setups.iter().map(|setup| setup as &dyn Setup).collect::<Vec<_>>())
}
