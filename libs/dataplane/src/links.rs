//! Programs on interfaces: attached by TCX, first in line, pinned so that they outlive the agent.
//! In: a program and an interface index. Out: a pinned link that runs it.
//! Invariant: an interface that is guarded stays guarded while its program is replaced.
//! Never: removes a link that is not pinned in our own directory.

use crate::{
    pins,
    programs::{Hook, Programs, in_full},
};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttach, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
};
use std::{
    collections::BTreeSet,
    fs, io,
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
    dir: PathBuf,
    /// Attached by this process, so known to run the present programs.
    attached: BTreeSet<(u32, Hook)>,
}

impl Links {
    /// Over the pins below `bpffs`.
    #[must_use]
    pub fn new(programs: Programs, bpffs: &Path) -> Self {
        Self { programs, dir: pins::links_dir(bpffs), attached: BTreeSet::new() }
    }

    /// The programs it attaches.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    fn pinned(&self) -> Vec<(PathBuf, Option<u32>)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.map(|entry| (entry.path(), ifindex_of(&entry.file_name().to_string_lossy()))).collect()
    }
}

impl Guards for Links {
    fn attach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        if self.attached.contains(&(ifindex, hook)) {
            return Ok(());
        }
        let failed = |reason: String| AttachError { program: hook.program(), ifindex, reason };
        let program = self.programs.at(hook).map_err(|error| failed(error.to_string()))?;
        let pin = self.dir.join(pin_name(ifindex, hook));
        if replace(program, &pin).is_err() {
            attach(program, hook, ifindex, &pin).map_err(|error| failed(in_full(error.as_ref())))?;
        }
        self.attached.insert((ifindex, hook));
        Ok(())
    }

    fn is_attached(&self, hook: Hook, ifindex: u32) -> bool {
        self.attached.contains(&(ifindex, hook))
    }

    fn forget_others(&mut self, present: &BTreeSet<u32>) {
        self.attached.retain(|(index, _)| present.contains(index));
    }

    fn sweep(&mut self, present: &BTreeSet<u32>) -> Result<(), Vec<(PathBuf, io::Error)>> {
        let mut left = Vec::new();
        for (pin, ifindex) in self.pinned() {
            if ifindex.is_some_and(|index| present.contains(&index)) {
                continue;
            }
            if let Err(error) = fs::remove_file(&pin) {
                left.push((pin, error));
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    }
}

fn pin_name(ifindex: u32, hook: Hook) -> String {
    format!("{ifindex}-{}", hook.program())
}

/// The interface a pin is for.
fn ifindex_of(pin: &str) -> Option<u32> {
    pin.split_once('-').and_then(|(index, _)| index.parse().ok())
}

type Failure = Box<dyn std::error::Error>;

/// Puts the program into the pinned link. Fails where there is no pin, or the link's device is gone.
fn replace(program: &mut SchedClassifier, pin: &Path) -> Result<(), Failure> {
    let link = SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
    let id = program.attach_to_link(link)?;
    // The pin holds the link; this process need not.
    drop(program.take_link(id)?);
    Ok(())
}

/// Attaches by a new link and puts its pin in the place of an old one, so that there is no moment without a program.
fn attach(program: &mut SchedClassifier, hook: Hook, ifindex: u32, pin: &Path) -> Result<(), Failure> {
    let attach_type = match hook {
        Hook::FromWorkload | Hook::FromUplink => TcAttachType::Ingress,
        Hook::ToWorkload => TcAttachType::Egress,
    };
    let id = program.attach(ifindex, TcAttach::Tcx { attach_type, order: LinkOrder::first() })?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    let fresh = pin.with_file_name(format!("{ifindex}-{}-new", hook.program()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    drop(link.pin(&fresh)?);
    fs::rename(&fresh, pin)?;
    Ok(())
}
