//! Programs on interfaces: attached so that they outlive the agent, by TCX or by clsact.
//! In: a program and an interface index. Out: an interface on which it runs.
//! Invariant: an interface that is guarded stays guarded while its program, or the way it is attached, is replaced.
//! Never: removes what is not pinned in our own directory or called by our name.

use crate::{
    clsact::{self, Found},
    pins,
    platform::AttachedBy,
    programs::{Hook, Programs, in_full},
    tcx,
};
use aya::programs::{LinkOrder, links::FdLink};
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

    /// Moves one hook to its final way of attachment. `false`: all are there.
    ///
    /// # Errors
    /// It stays as it is, guarded, and is not tried again.
    fn upgrade(&mut self) -> Result<bool, AttachError>;

    /// Whether a hook of an interface runs the present program.
    fn is_attached(&self, hook: Hook, ifindex: u32) -> bool;

    /// Takes a program away, whoever attached it in our name.
    ///
    /// # Errors
    /// The kernel refuses.
    fn detach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError>;

    /// Hooks that have a program of ours, this agent's or one that ran before.
    fn held(&self) -> BTreeSet<(u32, Hook)>;

    /// Forgets interfaces that are gone: their index may come again.
    fn forget_others(&mut self, present: &BTreeSet<u32>);

    /// Removes the pins of interfaces that are not `present`.
    ///
    /// # Errors
    /// The pins that could not be removed.
    fn sweep(&mut self, present: &BTreeSet<u32>) -> Result<(), Vec<(PathBuf, io::Error)>>;
}

/// How a hook is guarded.
#[derive(Debug)]
enum Held {
    /// By a link, held open, so that a pin that somebody removes does not end it while this process lives.
    Link(FdLink),
    /// By a filter, which needs no handle.
    Filter,
}

/// The programs, the directory of link pins, and what is in it.
#[derive(Debug)]
pub struct Links {
    programs: Programs,
    by: AttachedBy,
    bpffs: PathBuf,
    dir: PathBuf,
    /// Where there are filters of ours.
    filtered: BTreeSet<(u32, Hook)>,
    /// Interfaces whose clsact this process made.
    fresh: BTreeSet<u32>,
    /// Attached by this process, so known to run the present programs.
    attached: BTreeMap<(u32, Hook), Held>,
    /// Where no link could be made, or no filter taken away: they stay as they are.
    stuck: BTreeSet<(u32, Hook)>,
}

impl Links {
    /// Over the pins below `bpffs`.
    ///
    /// # Errors
    /// The kernel does not list its filters.
    pub fn new(programs: Programs, bpffs: &Path, by: AttachedBy) -> Result<Self, netlink::Error> {
        let filtered = clsact::ours()?.into_iter().collect();
        let (bpffs, dir) = (bpffs.to_owned(), pins::links_dir(bpffs));
        let (fresh, attached, stuck) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Ok(Self { programs, by, bpffs, dir, filtered, fresh, attached, stuck })
    }

    /// The programs it attaches.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    fn put(&mut self, hook: Hook, ifindex: u32) -> Result<Held, tcx::Failure> {
        match self.by {
            AttachedBy::Tcx => self.put_link(hook, ifindex).map(Held::Link),
            AttachedBy::Clsact => self.put_filter(hook, ifindex),
            AttachedBy::TcxInTheEnd if !hook.is_pods() => self.put_link(hook, ifindex).map(Held::Link),
            AttachedBy::TcxInTheEnd => match tcx::replace(self.programs.at(hook)?, hook, ifindex, &self.dir) {
                Ok(link) => self.without_filter(hook, ifindex, link).map(Held::Link),
                Err(_) => self.put_filter(hook, ifindex),
            },
        }
    }

    /// The link first, then away with a filter: both judge for a moment, by the same words.
    fn put_link(&mut self, hook: Hook, ifindex: u32) -> Result<FdLink, tcx::Failure> {
        let replaced = tcx::replace(self.programs.at(hook)?, hook, ifindex, &self.dir);
        let link = replaced.or_else(|_| self.put_link_anew(hook, ifindex))?;
        self.without_filter(hook, ifindex, link)
    }

    fn put_link_anew(&mut self, hook: Hook, ifindex: u32) -> Result<FdLink, tcx::Failure> {
        let is_link = |before: &&Hook| matches!(self.attached.get(&(ifindex, **before)), Some(Held::Link(_)));
        let before = hook.after().iter().find(is_link).and_then(|before| self.programs.known(*before));
        let order = match before {
            Some(before) => LinkOrder::after_program(before)?,
            None => LinkOrder::first(),
        };
        tcx::attach_anew(self.programs.at(hook)?, order, hook, ifindex, &self.dir)
    }

    fn without_filter(&mut self, hook: Hook, ifindex: u32, link: FdLink) -> Result<FdLink, tcx::Failure> {
        if self.filtered.contains(&(ifindex, hook)) {
            clsact::detach(hook, ifindex)?;
            self.filtered.remove(&(ifindex, hook));
        }
        Ok(link)
    }

    /// The filter first, then away with a link, and with one that a killed agent did not finish.
    fn put_filter(&mut self, hook: Hook, ifindex: u32) -> Result<Held, tcx::Failure> {
        let found = if self.fresh.contains(&ifindex) { Found::Fresh } else { Found::Unknown };
        if clsact::attach(self.programs.at(hook)?, hook, (ifindex, found), &self.dir)? == Found::Fresh {
            self.fresh.insert(ifindex);
        }
        self.filtered.insert((ifindex, hook));
        tcx::detach(hook, ifindex, &self.dir)?;
        Ok(Held::Filter)
    }

    /// The next hook with a filter that is to go.
    fn next_filter(&self) -> Option<(u32, Hook)> {
        let is_open = |at: &&(u32, Hook)| self.attached.contains_key(at) && !self.stuck.contains(at);
        self.filtered.iter().find(is_open).copied().filter(|_| self.by == AttachedBy::TcxInTheEnd)
    }

    /// What is wrong at a hook.
    fn found(&self, hook: Hook, ifindex: u32) -> Result<Option<&'static str>, tcx::Failure> {
        let Some(program) = self.programs.known(hook) else { return Ok(Some(DETACHED)) };
        let before: Vec<_> = hook.after().iter().filter_map(|before| self.programs.known(*before)).collect();
        Ok(match self.attached.get(&(ifindex, hook)) {
            Some(Held::Filter) => {
                let is_there = clsact::is_attached(program, hook, ifindex, &mut Socket::open()?)?;
                (!is_there).then_some(DETACHED)
            }
            Some(Held::Link(_)) => match tcx::place(program, &before, hook, ifindex)? {
                Some(0) => (!tcx::is_pinned(hook, ifindex, &self.dir)).then_some(UNPINNED),
                Some(_) => Some(PUSHED_BACK),
                None => Some(DETACHED),
            },
            None => Some(DETACHED),
        })
    }

    fn put_again(&mut self, hook: Hook, ifindex: u32, found: &str) -> Result<Held, tcx::Failure> {
        pins::prepare(&self.bpffs)?;
        // Others were at it.
        self.fresh.remove(&ifindex);
        match self.attached.remove(&(ifindex, hook)) {
            // The link lives on by the handle of this process.
            Some(Held::Link(link)) if found == UNPINNED => Ok(Held::Link(tcx::pin(link, hook, ifindex, &self.dir)?)),
            // A link keeps its place in the line, and the kernel takes a program once at a hook. So that there is no
            // moment without one, the twin judges in the old link until the new one is first: what it lets pass takes
            // the host's way, what it would refuse is dropped.
            Some(Held::Link(link)) if found == PUSHED_BACK => {
                let old = tcx::swap(self.programs.twin_mut(hook)?, link)?;
                let link = self.put_link_anew(hook, ifindex)?;
                drop(old);
                Ok(Held::Link(link))
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
            // Others were at it: what failed before may do now.
            self.stuck.clear();
            let link = self.put_again(hook, ifindex, found).map_err(|error| failed(hook, ifindex, error.as_ref()))?;
            self.attached.insert((ifindex, hook), link);
        }
        Ok(found)
    }

    fn mend_pins(&mut self) -> Result<Vec<&'static str>, String> {
        self.programs.pin_again(&self.bpffs).map_err(|error| in_full(error.as_ref()))
    }

    fn upgrade(&mut self) -> Result<bool, AttachError> {
        let Some((ifindex, hook)) = self.next_filter() else { return Ok(false) };
        // Others may have removed the pins' folders since the last look.
        match pins::prepare(&self.bpffs).map_err(Into::into).and_then(|()| self.put_link(hook, ifindex)) {
            Ok(link) => {
                self.attached.insert((ifindex, hook), Held::Link(link));
                Ok(true)
            }
            Err(error) => {
                self.stuck.insert((ifindex, hook));
                Err(failed(hook, ifindex, error.as_ref()))
            }
        }
    }

    fn is_attached(&self, hook: Hook, ifindex: u32) -> bool {
        self.attached.contains_key(&(ifindex, hook))
    }

    fn detach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        let taken = tcx::detach(hook, ifindex, &self.dir).map_err(Into::into);
        let taken = taken.and_then(|()| match self.filtered.contains(&(ifindex, hook)) {
            true => clsact::detach(hook, ifindex),
            false => Ok(()),
        });
        taken.map_err(|error: tcx::Failure| failed(hook, ifindex, error.as_ref()))?;
        // With the pin gone, the handle is the last that holds a link.
        self.attached.remove(&(ifindex, hook));
        self.filtered.remove(&(ifindex, hook));
        Ok(())
    }

    fn held(&self) -> BTreeSet<(u32, Hook)> {
        let pinned = |(pin, ifindex): (PathBuf, Option<u32>)| {
            let name = pin.file_name()?.to_str()?.split_once('-')?.1.to_owned();
            Some((ifindex?, Hook::ALL.into_iter().find(|hook| hook.program() == name)?))
        };
        let pinned = pins::links(&self.dir).into_iter().filter_map(pinned);
        pinned.chain(self.attached.keys().copied()).chain(self.filtered.iter().copied()).collect()
    }

    fn forget_others(&mut self, present: &BTreeSet<u32>) {
        self.attached.retain(|(index, _), _| present.contains(index));
        self.filtered.retain(|(index, _)| present.contains(index));
        self.fresh.retain(|index| present.contains(index));
        self.stuck.retain(|(index, _)| present.contains(index));
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
