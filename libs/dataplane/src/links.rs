//! Programs on interfaces: attached so that they outlive the agent, by TCX or by clsact.
//! In: a program and an interface index. Out: an interface on which it runs.
//! Invariant: an interface that is guarded stays guarded while its program, or the way it is attached, is replaced.
//! Never: removes what is not pinned in our own directory or called by our name.

use crate::{
    clsact, pins,
    platform::AttachedBy,
    programs::{Hook, Programs, in_full},
    tcx,
};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

/// A program cannot be attached.
#[derive(Debug, thiserror::Error)]
#[error("attach {program} to interface {ifindex}: {reason}")]
pub struct AttachError {
    /// Which.
    pub program: &'static str,
    /// Where.
    pub ifindex: u32,
    /// Why not.
    pub reason: String,
}

/// What guards interfaces.
pub trait Guards {
    /// Attaches the present program, unless this process did so before.
    ///
    /// # Errors
    /// The kernel refuses; what was attached before stays.
    fn attach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError>;

    /// Whether a hook of an interface runs the present program.
    fn is_attached(&self, hook: Hook, ifindex: u32) -> bool;

    /// Forgets interfaces that are gone: their index may come again.
    fn forget_others(&mut self, present: &BTreeSet<u32>);

    /// Removes the pins of interfaces that are not `present`.
    ///
    /// # Errors
    /// The pins that could not be removed.
    fn sweep(&mut self, present: &BTreeSet<u32>) -> Result<(), Vec<(PathBuf, io::Error)>>;
}

/// The programs, the directory of link pins, and what is in it.
#[derive(Debug)]
pub struct Links {
    programs: Programs,
    by: AttachedBy,
    dir: PathBuf,
    /// Where an agent that attached by clsact left filters.
    filtered: BTreeSet<(u32, Hook)>,
    /// Attached by this process, so known to run the present programs.
    attached: BTreeSet<(u32, Hook)>,
}

impl Links {
    /// Over the pins below `bpffs`.
    ///
    /// # Errors
    /// The kernel does not list its filters.
    pub fn new(programs: Programs, bpffs: &Path, by: AttachedBy) -> Result<Self, netlink::Error> {
        let filtered = clsact::ours()?.into_iter().collect();
        Ok(Self { programs, by, dir: pins::links_dir(bpffs), filtered, attached: BTreeSet::new() })
    }

    /// The programs it attaches.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The present way first, then away with what an agent of the other way left: both judge for a moment.
    fn put(&mut self, hook: Hook, ifindex: u32) -> Result<(), tcx::Failure> {
        let program = self.programs.at(hook)?;
        match self.by {
            AttachedBy::Tcx => {
                tcx::attach(program, hook, ifindex, &self.dir)?;
                if self.filtered.remove(&(ifindex, hook)) {
                    clsact::detach(hook, ifindex, &self.dir)?;
                }
            }
            AttachedBy::Clsact => {
                clsact::attach(program, hook, ifindex, &self.dir)?;
                tcx::detach(hook, ifindex, &self.dir)?;
            }
        }
        Ok(())
    }
}

impl Guards for Links {
    fn attach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        if self.attached.contains(&(ifindex, hook)) {
            return Ok(());
        }
        let failed = |reason: String| AttachError { program: hook.program(), ifindex, reason };
        self.put(hook, ifindex).map_err(|error| failed(in_full(error.as_ref())))?;
        self.attached.insert((ifindex, hook));
        Ok(())
    }

    fn is_attached(&self, hook: Hook, ifindex: u32) -> bool {
        self.attached.contains(&(ifindex, hook))
    }

    fn forget_others(&mut self, present: &BTreeSet<u32>) {
        self.attached.retain(|(index, _)| present.contains(index));
        self.filtered.retain(|(index, _)| present.contains(index));
    }

    fn sweep(&mut self, present: &BTreeSet<u32>) -> Result<(), Vec<(PathBuf, io::Error)>> {
        let mut left = Vec::new();
        for (pin, ifindex) in pins::links(&self.dir) {
            if ifindex.is_some_and(|index| present.contains(&index)) {
                continue;
            }
            if let Err(error) = pins::remove_link(&pin) {
                left.push((pin, error));
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    }
}
