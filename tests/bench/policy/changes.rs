//! Changes: how long from the write of a manifest to the first packet refused.
//! In: places. Out: p50, p99 and the most of each change at each place.
//! Invariant: places and changes take turns; each change is made at rest, when what the last one left is swept.
//! Never: times the way back.

use super::place::Place;
use crate::{door::REST, figures::Waits, manifests, progress};
use anyhow::Result;
use serde::Serialize;
use std::{
    thread,
    time::{Duration, Instant},
};

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new policy that refuses, of one pod.
    Refusal,
    /// A new policy that refuses, of every pod.
    RefusalOfAll,
    /// A policy's port.
    Rule,
    /// A label of a pod here.
    LabelHere,
    /// A label of a pod on another node.
    LabelElsewhere,
}

impl Change {
    /// Those that are compared over sizes of clusters.
    pub const OF_CLUSTER: [Self; 5] =
        [Self::LabelElsewhere, Self::LabelHere, Self::Rule, Self::Refusal, Self::RefusalOfAll];

    fn name(self) -> &'static str {
        match self {
            Self::Refusal => "a new policy of one pod",
            Self::RefusalOfAll => "a new policy of every pod",
            Self::Rule => "a policy's rule",
            Self::LabelHere => "a label of a pod here",
            Self::LabelElsewhere => "a label of a pod elsewhere",
        }
    }

    fn shut(self, place: &Place) -> Result<()> {
        let refusal = |subject| place.cluster.manifest("refusal", &manifests::refusal(subject).to_string());
        match self {
            Self::Refusal => refusal("pod == 'local0'"),
            Self::RefusalOfAll => refusal("all()"),
            Self::Rule => place.shut(),
            Self::LabelHere => place.client("shut"),
            Self::LabelElsewhere => place.visitor("shut"),
        }
    }

    fn open(self, place: &Place) -> Result<()> {
        match self {
            Self::Refusal | Self::RefusalOfAll => place.cluster.remove("refusal"),
            Self::Rule => place.open(),
            Self::LabelHere => place.client("open"),
            Self::LabelElsewhere => place.visitor("open"),
        }
    }

    fn time(self, place: &Place) -> Result<Duration> {
        let door = if self == Self::LabelElsewhere { place.elsewhere() } else { place.here() };
        let took = door.until_shut(|| self.shut(place))?;
        self.open(place)?;
        door.until_open()?;
        thread::sleep(REST);
        Ok(took)
    }
}

/// Of one change at one place; milliseconds.
#[derive(Serialize)]
pub struct Timed {
    pub place: String,
    pub change: &'static str,
    #[serde(flatten)]
    pub waits: Waits,
}

/// Makes every change at every place so many times, in turns.
pub fn timed(places: &[&Place], changes: &[Change], times: u32) -> Result<Vec<Timed>> {
    let mut took = vec![Vec::new(); places.len() * changes.len()];
    let begun = Instant::now();
    for time in 0..times {
        progress(&format!("changes {} of {times}, {:.0} s", time + 1, begun.elapsed().as_secs_f64()));
        for (number, change) in changes.iter().enumerate() {
            for (at, place) in places.iter().enumerate() {
                took[number * places.len() + at].push(change.time(place)?);
            }
        }
    }
    let each = changes.iter().flat_map(|change| places.iter().map(move |place| (change, place)));
    let timed = |(change, place): (&Change, &&Place), took: Vec<Duration>| Timed {
        place: place.name(),
        change: change.name(),
        waits: Waits::of(&took),
    };
    Ok(each.zip(took).map(|(what, took)| timed(what, took)).collect())
}
