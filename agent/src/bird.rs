//! BIRD beside the agent: who speaks BGP for this node.
//! In: what the World says of BGP, from the owner. Out: a BIRD that is told it, and what that BIRD says of its sessions.
//! Invariant: BIRD outlives the agent, and packets go on; it is known by a socket in the agent's own folder, and by nothing else.
//! Never: makes the owner wait; touches a BIRD that is somebody else's.

mod ask;
mod control;
mod facts;
mod files;
mod passwords;
mod program;
mod worker;

pub use ask::ask;

use crate::mailbox::Mailbox;
use anyhow::Result;
use bgp::Facts;
use calc::World;
use datastore::Store;
use model::{ResourceKey, Update};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};
use worker::Worker;

/// How BIRD is started, and where passwords are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The program.
    pub program: PathBuf,
    /// Passwords of sessions, as SECRET/KEY; `None`: Secrets of the datastore, where it has them.
    pub passwords: Option<PathBuf>,
}

/// What stands between the owner and the thread.
#[derive(Debug, Default)]
struct Shared {
    wanted: Option<Arc<Facts>>,
    seen: Seen,
}

/// BIRD as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// It answers.
    pub running: bool,
    /// As it says itself.
    pub version: Option<String>,
    /// How often it was started again.
    pub restarts: u64,
    /// What keeps it from running, or from taking its configuration.
    pub trouble: Option<String>,
    /// What of the objects could not be made so.
    #[serde(skip)]
    pub problems: Vec<String>,
    /// Whom it speaks with.
    pub sessions: Vec<bgp::Session>,
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub struct Speaker(Arc<Mailbox<Shared>>);

impl Speaker {
    /// With the files of BIRD in `folder`, over the objects that agents share.
    pub fn start(settings: Settings, folder: &Path, objects: Store) -> Result<Self> {
        let shared = Arc::<Mailbox<Shared>>::default();
        let theirs = Arc::clone(&shared);
        let mut worker = Worker::new(settings, folder, objects);
        thread::Builder::new().name("bird".into()).spawn(move || worker.run(&theirs))?;
        Ok(Self(shared))
    }

    /// What BIRD is to do from now on. Nothing, as long as the datastore has not said everything.
    pub fn follow(&self, world: &World) {
        if world.in_sync().is_none() {
            return;
        }
        let facts = facts::of(world);
        self.0.tell(|shared| {
            let is_news = shared.wanted.as_deref() != Some(&facts);
            if is_news {
                shared.wanted = Some(Arc::new(facts));
            }
            is_news
        });
    }

    /// BIRD as it was seen last.
    pub fn seen(&self) -> Seen {
        self.0.look().value.seen.clone()
    }
}

/// Whether BIRD may have to hear of this.
pub fn concerns(world: &World, update: &Update) -> bool {
    let cluster = || world.bgp().configurations.get(model::BgpConfiguration::DEFAULT);
    let key = match update {
        Update::Set(resource) => resource.key(),
        Update::Gone(key) => key.clone(),
        Update::InSync | Update::Anew { .. } => return true,
    };
    match key {
        ResourceKey::BgpConfiguration(_)
        | ResourceKey::BgpPeer(_)
        | ResourceKey::BgpFilter(_)
        | ResourceKey::Node(_)
        | ResourceKey::NodeAddresses(_)
        | ResourceKey::IpPool(_)
        | ResourceKey::BlockClaim(_) => true,
        ResourceKey::Service(_) | ResourceKey::ServiceAddresses(_) | ResourceKey::EndpointSlice(_) => {
            bgp::needs_slices(cluster())
        }
        _ => false,
    }
}

/// What `tortie node status` says of BGP.
pub fn report(speaker: Option<&Speaker>) -> Value {
    match speaker {
        None => json!({ "bgp": "off" }),
        Some(speaker) => {
            let seen = speaker.seen();
            let mut said = serde_json::to_value(&seen).unwrap_or_default();
            said["bgp"] = "on".into();
            said["problems"] = seen.problems.into();
            said
        }
    }
}

/// What is wrong, for people: with BIRD first.
pub fn problems(speaker: &Speaker) -> Vec<String> {
    let seen = speaker.seen();
    seen.trouble.into_iter().map(|why| format!("BIRD: {why}")).chain(seen.problems).collect()
}

/// Where the files of BIRD are, of an agent with this state.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("bird")
}

/// Ends the BIRD of this folder and takes the routes that it has made; `None`: there was none.
pub fn cleanup(folder: &Path) -> Result<Option<String>> {
    worker::cleanup(folder)
}
