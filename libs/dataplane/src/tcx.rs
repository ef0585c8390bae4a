//! Attachment by TCX: first in line, by a link that is pinned (Linux 6.6 and later).
//! In: a program and an interface index. Out: a pinned link that runs it.
//! Invariant: there is no moment without a program while one takes another's place.
//! Never: removes a link that is not pinned in our own directory.

use crate::{pins, programs::Hook};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttach, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
};
use netlink::Side;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Why a program cannot be attached, in words.
pub type Failure = Box<dyn std::error::Error>;

/// Puts the program into the link that is pinned, or into a new one.
///
/// # Errors
/// The kernel refuses; what was attached before stays.
pub fn attach(program: &mut SchedClassifier, hook: Hook, ifindex: u32, dir: &Path) -> Result<(), Failure> {
    let pin = pin_of(hook, ifindex, dir);
    if replace(program, &pin).is_ok() { Ok(()) } else { attach_anew(program, hook, ifindex, &pin) }
}

/// Ends our link there, if there is one.
///
/// # Errors
/// Its pin cannot be removed.
pub fn detach(hook: Hook, ifindex: u32, dir: &Path) -> io::Result<()> {
    pins::remove_link(&pin_of(hook, ifindex, dir))
}

fn pin_of(hook: Hook, ifindex: u32, dir: &Path) -> PathBuf {
    dir.join(format!("{ifindex}-{}", hook.program()))
}

/// Fails where there is no pin, or the link's device is gone.
fn replace(program: &mut SchedClassifier, pin: &Path) -> Result<(), Failure> {
    let link = SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
    let id = program.attach_to_link(link)?;
    // The pin holds the link; this process need not.
    drop(program.take_link(id)?);
    Ok(())
}

/// Attaches by a new link and puts its pin in the place of an old one, so that there is no moment without a program.
fn attach_anew(program: &mut SchedClassifier, hook: Hook, ifindex: u32, pin: &Path) -> Result<(), Failure> {
    let attach_type = match hook.side() {
        Side::Ingress => TcAttachType::Ingress,
        Side::Egress => TcAttachType::Egress,
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
