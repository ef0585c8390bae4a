//! Services, which nobody keeps in etcd, as an API server beside it says them.
//! In: what its watches say. Out: readings, among those of etcd.
//! Invariant: none goes before a whole list lacks it, over a restart, too: until then those stay that were in force when the agent last
//! ran.
//! Never: keeps policies waiting for longer than [`PATIENCE`].

use crate::{
    Connection, Problem,
    cluster::{self, Known, Said, Watches},
    standing::Standing,
};
use std::{path::Path, time::Duration};
use tokio::sync::mpsc::Sender;

/// Before their places; those of etcd's resources are their names.
pub(super) const SERVED: &str = "kubernetes";
/// So long policies wait for services, once all else is there. A server that is there has said them by then.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How far they were heard.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// None: there is no API server.
    kinds: Vec<Known>,
    server: String,
    /// Nobody waits for them any longer.
    are_left: bool,
}

impl Services {
    /// Of the server there, if there is one.
    pub(super) fn at(server: Option<&str>) -> Self {
        let kinds = server.map(|_| cluster::unheard_services(Path::new(SERVED))).unwrap_or_default();
        Self { kinds, server: server.unwrap_or_default().to_owned(), are_left: false }
    }

    /// Says what the server does, each with the number of its kind.
    pub(super) fn watch<T: Send + 'static>(
        cluster: &Connection,
        say: Sender<T>,
        told: impl Fn(usize, Said) -> T + Send + Sync + 'static,
    ) -> Watches {
        cluster::hear_services(cluster, say, told)
    }

    pub(super) fn hear(&mut self, standing: &mut Standing, kind: usize, said: Said) {
        let Some(known) = self.kinds.get_mut(kind) else { return };
        known.has_trouble(&said);
        known.hear(standing, said, |_, _, _, _| {});
    }

    /// Whether all were listed, or what is known has to do.
    pub(super) fn are_known(&self) -> bool {
        self.are_left || self.are_listed()
    }

    fn are_listed(&self) -> bool {
        self.kinds.iter().all(|known| known.is_listed)
    }

    pub(super) fn are_late(&mut self, standing: &mut Standing) {
        self.are_left = true;
        self.kinds.iter_mut().for_each(|known| known.is_late(standing));
    }

    pub(super) fn troubles(&self) -> impl Iterator<Item = Problem> {
        let late = self.are_left && !self.are_listed();
        let said = self.kinds.iter().find_map(|known| known.trouble.clone());
        let message = match (said, late) {
            (Some(trouble), false) => Some(format!("{trouble}; services stay as they were")),
            (said, true) => {
                let said = said.unwrap_or_else(|| "does not say which services there are".to_owned());
                Some(format!("{said}; until it has said them all, those count that were in force before this start"))
            }
            (None, false) => None,
        };
        let file = self.server.clone().into();
        message.map(|message| Problem { file, line: None, object: None, message }).into_iter()
    }
}
