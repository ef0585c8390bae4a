//! What FelixConfiguration makes of this node: each field that an object for it sets, and what became of it.
//! In: the objects for this node, what is known of Felix's parameters. Out: rows for people; what is logged from now on.
//! Invariant: of a field that several objects set only the one that counts is shown.
//! Never: a value: `kubectl get` has those.

use crate::{kernel::Kernel, owner::Agent};
use anyhow::Result;
use datastore::parameters::{self, Standing};
use model::LogLevel;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt};
use tracing::{info, warn};

/// Changes what is logged; `None`: back to what it was at the start.
pub type Filter = Box<dyn Fn(Option<LogLevel>) -> Result<()> + Send>;

/// What is logged, where the agent's own settings leave that to the cluster.
#[derive(Default)]
pub struct Logging {
    filter: Option<Filter>,
    now: Option<LogLevel>,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Logging {
    /// By this filter, from now on.
    pub fn by(filter: Option<Filter>) -> Self {
        Self { filter, now: None }
    }

    /// The cluster wants this much.
    pub fn want(&mut self, level: Option<LogLevel>) {
        let Some(filter) = self.filter.as_ref().filter(|_| self.now != level) else { return };
        match filter(level) {
            Ok(()) => info!(level = level.map_or("as at the start", LogLevel::as_str), "what is logged is another"),
            Err(error) => warn!("logSeverityScreen: {error}"),
        }
        self.now = level;
    }
}

/// `tortie node status`.
pub fn report<K: Kernel>(agent: &Agent<K>) -> Value {
    let mut rows: BTreeMap<&String, Value> = BTreeMap::new();
    for object in agent.world.felix_of_node() {
        for field in &object.sets {
            rows.entry(field).or_insert_with(|| row(field, &object.name, agent.logging.filter.is_some()));
        }
    }
    rows.into_values().collect()
}

fn row(field: &str, object: &str, logs: bool) -> Value {
    let (here, why) = match parameters::of_field(field) {
        None => ("unknown", "Felix has no such parameter"),
        Some(known) if known.field == "logSeverityScreen" && !logs => ("ignored", "the setting `log` is given"),
        Some(known) => match known.standing {
            Standing::Honoured => ("in force", known.note),
            Standing::AtStart => ("by a setting", known.note),
            Standing::NotYet => ("not yet", known.note),
            Standing::Meaningless => ("no meaning", known.note),
        },
    };
    json!({ "parameter": field, "of": object, "here": here, "why": why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn what_is_logged_changes_with_what_the_cluster_wants_and_goes_back() {
        let (send, told) = mpsc::channel();
        let mut logging = Logging::by(Some(Box::new(move |level| Ok(send.send(level)?))));
        for level in [None, Some(LogLevel::Debug), Some(LogLevel::Debug), None] {
            logging.want(level);
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [Some(LogLevel::Debug), None]);
        Logging::by(None).want(Some(LogLevel::Debug));
    }

    #[test]
    fn a_row_says_what_became_of_a_field() {
        let here = |field: &str, logs| row(field, "default", logs)["here"].clone();
        assert_eq!(here("defaultEndpointToHostAction", true), "in force");
        assert_eq!(here("vxlanMTU", true), "in force");
        assert_eq!(here("healthPort", true), "by a setting");
        assert_eq!(here("logPrefix", true), "not yet");
        assert_eq!(here("chainInsertMode", true), "no meaning");
        assert_eq!(here("unheardOf", true), "unknown");
        assert_eq!(
            (here("logSeverityScreen", true), here("logSeverityScreen", false)),
            ("in force".into(), "ignored".into())
        );
    }
}
