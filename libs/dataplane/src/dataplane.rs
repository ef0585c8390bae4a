//! The face of the crate: one value that holds the kernel's tables, programs and links.
//! In: `Options` once, then `Desired` after `Desired`. Out: `Applied`, answers and reports.
//! Invariant: `apply` may be called with any Desired at any time; the same one twice changes nothing.
//! Never: sweeps anything before the first `apply`.

use crate::{ApplyError, CleanupError, OpenError, Question, ReportError, TwinAnswer, TwinError};
use calc::Desired;
use model::{AttachmentId, IfaceName};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What a dataplane is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where maps and links are pinned; mounted as a bpffs if it is none.
    pub bpffs: PathBuf,
    /// The compiled kernel programs (an ELF object).
    pub object: Vec<u8>,
    /// Map sizes that differ from the defaults, by map name.
    pub entries: BTreeMap<String, u32>,
    /// The interface towards the network; `None`: pods are reached from this host only.
    pub uplink: Option<IfaceName>,
    /// Where the sysctls to give back are remembered.
    pub state_dir: PathBuf,
}

/// What an `apply` came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// The generation in force.
    pub generation: u64,
    /// Endpoints that are completely in force.
    pub ok: usize,
    /// Items that are not as wanted, by name, and why. They are tried again by the next `apply`.
    pub failed: Vec<(String, ApplyError)>,
}

/// The node's dataplane.
pub struct Dataplane {
    _private: (),
}

impl Dataplane {
    /// Loads the programs, adopts what is pinned, guards the uplink. Call it in the node's network namespace: the
    /// calling thread's namespace is the one that is served.
    ///
    /// # Errors
    /// The kernel refuses the programs, or what is pinned is of another layout.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let _ = options;
        todo!()
    }

    /// Makes the kernel so. When it returns, every endpoint that is not in `failed` is in force.
    pub fn apply(&mut self, desired: &Desired) -> Applied {
        let _ = desired;
        todo!()
    }

    /// What `apply` left for after its answer: waits until no packet sees the previous revision, then takes it away.
    /// The next `apply` does it first if nobody did.
    pub fn settle(&mut self) {
        todo!()
    }

    /// Whether this endpoint's programs are attached, its policy is in force and its host side is complete.
    #[must_use]
    pub fn in_force(&self, id: &AttachmentId) -> bool {
        let _ = id;
        todo!()
    }

    /// Asks the kernel's dry twin.
    ///
    /// # Errors
    /// The endpoint is not in force, or the kernel cannot run the twin.
    pub fn explain(&self, question: &Question) -> Result<TwinAnswer, TwinError> {
        let _ = question;
        todo!()
    }

    /// Deletes expired flows; says how many. Call it now and then.
    pub fn sweep_conntrack(&mut self) -> usize {
        todo!()
    }

    /// The rows of a table for people and scripts: an array of flat objects. Tables: `endpoints`, `policies`, `classes`,
    /// `rulesets`, `conntrack`, `drops`, `capacity`.
    ///
    /// # Errors
    /// No such table, or a map that cannot be read.
    pub fn report(&self, table: &str) -> Result<serde_json::Value, ReportError> {
        let _ = table;
        todo!()
    }
}

/// Takes away everything an agent with this bpffs and state directory left in the calling thread's network namespace:
/// links, pins, routes, neighbours; gives sysctls back.
///
/// # Errors
/// Names what is left.
pub fn cleanup(bpffs: &Path, state_dir: &Path) -> Result<(), CleanupError> {
    let _ = (bpffs, state_dir);
    todo!()
}
