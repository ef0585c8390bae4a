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
    program: &'static str,
    ifindex: u32,
    reason: String,
}

/// The directory of link pins, and what is in it.
#[derive(Debug)]
pub struct Links {
    dir: PathBuf,
    /// Attached by this process, so known to run the present programs.
    attached: BTreeSet<(u32, Hook)>,
}

impl Links {
    /// Over the pins below `bpffs`.
    #[must_use]
    pub fn new(bpffs: &Path) -> Self {
        Self { dir: pins::links_dir(bpffs), attached: BTreeSet::new() }
    }

    /// Attaches the present program: into the pinned link where that still has its device, else by a new link.
    ///
    /// # Errors
    /// The kernel refuses; what was attached before stays.
    pub fn attach(&mut self, programs: &mut Programs, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        if self.attached.contains(&(ifindex, hook)) {
            return Ok(());
        }
        let failed = |reason: String| AttachError { program: hook.program(), ifindex, reason };
        let program = programs.at(hook).map_err(|error| failed(error.to_string()))?;
        let pin = self.pin(ifindex, hook);
        if replace(program, &pin).is_err() {
            attach(program, hook, ifindex, &pin).map_err(|error| failed(in_full(error.as_ref())))?;
        }
        self.attached.insert((ifindex, hook));
        Ok(())
    }

    /// Detaches everything from interfaces that are not in `keep`.
    ///
    /// # Errors
    /// The pins that could not be removed.
    pub fn sweep(&mut self, keep: &BTreeSet<u32>) -> Result<(), Vec<(PathBuf, io::Error)>> {
        let mut left = Vec::new();
        for (pin, ifindex) in self.pinned() {
            if ifindex.is_some_and(|index| keep.contains(&index)) {
                continue;
            }
            if let Err(error) = fs::remove_file(&pin) {
                left.push((pin, error));
            }
        }
        self.attached.retain(|(index, _)| keep.contains(index));
        if left.is_empty() { Ok(()) } else { Err(left) }
    }

    /// Forgets an interface that is gone: its index may come again.
    pub fn forget_others(&mut self, present: &BTreeSet<u32>) {
        self.attached.retain(|(index, _)| present.contains(index));
    }

    /// Whether a hook of an interface runs the present program.
    #[must_use]
    pub fn is_attached(&self, ifindex: u32, hook: Hook) -> bool {
        self.attached.contains(&(ifindex, hook))
    }

    fn pin(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.dir.join(format!("{ifindex}-{}", hook.program()))
    }

    fn pinned(&self) -> Vec<(PathBuf, Option<u32>)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let ifindex = name.split_once('-').and_then(|(index, _)| index.parse().ok());
                (entry.path(), ifindex)
            })
            .collect()
    }
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
