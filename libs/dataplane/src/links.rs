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
use aya::programs::links::FdLink;
use netlink::Socket;
use std::{
    collections::{BTreeMap, BTreeSet},
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

/// What a look can find at a hook.
const DETACHED: &str = "it was detached";
const PUSHED_BACK: &str = "another program was put before it";
const UNPINNED: &str = "its pin was removed";

fn failed(hook: Hook, ifindex: u32, error: &dyn std::error::Error) -> AttachError {
    AttachError { program: hook.program(), ifindex, reason: in_full(error) }
}

/// What guards interfaces.
pub trait Guards {
    /// Attaches the present program, unless this process did so before.
    ///
    /// # Errors
    /// The kernel refuses; what was attached before stays.
    fn attach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError>;

    /// Looks at a hook itself, and puts right what others did to it. Says what was found, if that is not what was left.
    ///
    /// # Errors
    /// It cannot be put right. What is not attached is known to be so.
    fn mend(&mut self, hook: Hook, ifindex: u32) -> Result<Option<&'static str>, AttachError>;

    /// Pins again the tables whose pins are gone, and names them.
    ///
    /// # Errors
    /// A pin cannot be made.
    fn mend_pins(&mut self) -> Result<Vec<&'static str>, String>;

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
    bpffs: PathBuf,
    dir: PathBuf,
    /// Where an agent that attached by clsact left filters.
    filtered: BTreeSet<(u32, Hook)>,
    /// Attached by this process, so known to run the present programs. A link is held open, so that a pin that somebody
    /// removes does not end it while this process lives; a filter needs no handle.
    attached: BTreeMap<(u32, Hook), Option<FdLink>>,
}

impl Links {
    /// Over the pins below `bpffs`.
    ///
    /// # Errors
    /// The kernel does not list its filters.
    pub fn new(programs: Programs, bpffs: &Path, by: AttachedBy) -> Result<Self, netlink::Error> {
        let filtered = clsact::ours()?.into_iter().collect();
        let (bpffs, dir) = (bpffs.to_owned(), pins::links_dir(bpffs));
        Ok(Self { programs, by, bpffs, dir, filtered, attached: BTreeMap::new() })
    }

    /// The programs it attaches.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The present way first, then away with what an agent of the other way left: both judge for a moment.
    fn put(&mut self, hook: Hook, ifindex: u32) -> Result<Option<FdLink>, tcx::Failure> {
        let program = self.programs.at(hook)?;
        match self.by {
            AttachedBy::Tcx => {
                let link = tcx::attach(program, hook, ifindex, &self.dir)?;
                if self.filtered.remove(&(ifindex, hook)) {
                    clsact::detach(hook, ifindex, &self.dir)?;
                }
                Ok(Some(link))
            }
            AttachedBy::Clsact => {
                clsact::attach(program, hook, ifindex, &self.dir)?;
                tcx::detach(hook, ifindex, &self.dir)?;
                Ok(None)
            }
        }
    }

    /// What is wrong at a hook.
    fn found(&mut self, hook: Hook, ifindex: u32) -> Result<Option<&'static str>, tcx::Failure> {
        let program = self.programs.at(hook)?;
        Ok(match self.by {
            AttachedBy::Clsact => {
                let is_there = clsact::is_attached(program, hook, ifindex, &mut Socket::open()?)?;
                (!is_there).then_some(DETACHED)
            }
            AttachedBy::Tcx => match tcx::place(program, hook, ifindex)? {
                Some(0) => (!tcx::is_pinned(hook, ifindex, &self.dir)).then_some(UNPINNED),
                Some(_) => Some(PUSHED_BACK),
                None => Some(DETACHED),
            },
        })
    }

    fn put_again(&mut self, hook: Hook, ifindex: u32, found: &str) -> Result<Option<FdLink>, tcx::Failure> {
        pins::prepare(&self.bpffs)?;
        match self.attached.remove(&(ifindex, hook)) {
            // The link lives on by the handle of this process.
            Some(Some(link)) if found == UNPINNED => Ok(Some(tcx::pin(link, hook, ifindex, &self.dir)?)),
            // A link keeps its place in the line, and the kernel takes a program once at a hook. So that there is no
            // moment without one, the twin judges in the old link until the new one is first: what it lets pass takes
            // the host's way, what it would refuse is dropped.
            Some(Some(link)) if found == PUSHED_BACK => {
                let old = tcx::swap(self.programs.twin_mut(hook)?, link)?;
                let link = tcx::attach_anew(self.programs.at(hook)?, hook, ifindex, &self.dir)?;
                drop(old);
                Ok(Some(link))
            }
            _ => self.put(hook, ifindex),
        }
    }
}

impl Guards for Links {
    fn attach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        if self.attached.contains_key(&(ifindex, hook)) {
            return Ok(());
        }
        let link = self.put(hook, ifindex).map_err(|error| failed(hook, ifindex, error.as_ref()))?;
        self.attached.insert((ifindex, hook), link);
        Ok(())
    }

    fn mend(&mut self, hook: Hook, ifindex: u32) -> Result<Option<&'static str>, AttachError> {
        let found = self.found(hook, ifindex).map_err(|error| failed(hook, ifindex, error.as_ref()))?;
        if let Some(found) = found {
            let link = self.put_again(hook, ifindex, found).map_err(|error| failed(hook, ifindex, error.as_ref()))?;
            self.attached.insert((ifindex, hook), link);
        }
        Ok(found)
    }

    fn mend_pins(&mut self) -> Result<Vec<&'static str>, String> {
        self.programs.pin_again(&self.bpffs).map_err(|error| in_full(error.as_ref()))
    }

    fn is_attached(&self, hook: Hook, ifindex: u32) -> bool {
        self.attached.contains_key(&(ifindex, hook))
    }

    fn forget_others(&mut self, present: &BTreeSet<u32>) {
        self.attached.retain(|(index, _), _| present.contains(index));
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
