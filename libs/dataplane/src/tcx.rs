//! Attachment by TCX: first in line, but for what is ours and comes before, by a link that is pinned (Linux 6.6 and later).
//! In: a program and an interface index. Out: a pinned link that runs it, held open as well.
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

/// Puts the program into the link that is pinned. One that a killed agent had not yet put in its place is put there first:
/// it runs, and the kernel takes a program once at a hook.
///
/// # Errors
/// There is no pin, or the link's device is gone.
pub fn replace(program: &mut SchedClassifier, hook: Hook, ifindex: u32, dir: &Path) -> Result<FdLink, Failure> {
    pins::gone(fs::rename(passing(hook, ifindex, dir), pin_of(hook, ifindex, dir)))?;
    swap(program, PinnedLink::from_pin(pin_of(hook, ifindex, dir))?.into())
}

/// The program's place in the line at its hook, those that are to be before it left out; `None`: it is not in it.
///
/// # Errors
/// The kernel does not say.
pub fn place(
    program: &SchedClassifier,
    before: &[&SchedClassifier],
    hook: Hook,
    ifindex: u32,
) -> Result<Option<usize>, Failure> {
    let own = program.info()?.id();
    let before = before.iter().map(|before| before.info().map(|info| info.id())).collect::<Result<Vec<_>, _>>()?;
    let (_, line) = SchedClassifier::query_tcx(ifindex, attach_type(hook))?;
    Ok(line.iter().filter(|found| !before.contains(&found.id())).position(|found| found.id() == own))
}

/// Whether the link is pinned.
pub fn is_pinned(hook: Hook, ifindex: u32, dir: &Path) -> bool {
    pin_of(hook, ifindex, dir).symlink_metadata().is_ok()
}

/// Pins a link again.
///
/// # Errors
/// The kernel refuses.
pub fn pin(link: FdLink, hook: Hook, ifindex: u32, dir: &Path) -> Result<FdLink, Failure> {
    Ok(link.pin(pin_of(hook, ifindex, dir))?.into())
}

/// Puts another program into a link.
///
/// # Errors
/// The kernel refuses.
pub fn swap(program: &mut SchedClassifier, link: FdLink) -> Result<FdLink, Failure> {
    let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

/// Ends our link there, if there is one, and one that was not finished.
///
/// # Errors
/// A pin cannot be removed.
pub fn detach(hook: Hook, ifindex: u32, dir: &Path) -> io::Result<()> {
    pins::remove_link(&passing(hook, ifindex, dir))?;
    pins::remove_link(&pin_of(hook, ifindex, dir))
}

/// A pin before it takes another's place.
fn passing(hook: Hook, ifindex: u32, dir: &Path) -> PathBuf {
    dir.join(format!("{ifindex}-{}-new", hook.program()))
}

fn pin_of(hook: Hook, ifindex: u32, dir: &Path) -> PathBuf {
    dir.join(format!("{ifindex}-{}", hook.program()))
}

/// Attaches by a new link and puts its pin in the place of an old one, so that there is no moment without a program.
///
/// # Errors
/// The kernel refuses; what was attached before stays.
pub fn attach_anew(
    program: &mut SchedClassifier,
    order: LinkOrder,
    hook: Hook,
    ifindex: u32,
    dir: &Path,
) -> Result<FdLink, Failure> {
    let tcx = TcAttach::Tcx { attach_type: attach_type(hook), order };
    let id = program.attach(ifindex, tcx)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    let (pin, fresh) = (pin_of(hook, ifindex, dir), passing(hook, ifindex, dir));
    pins::gone(fs::remove_file(&fresh))?;
    let link = link.pin(&fresh)?;
    fs::rename(&fresh, pin)?;
    Ok(link.into())
}

fn attach_type(hook: Hook) -> TcAttachType {
    match hook.side() {
        Side::Ingress => TcAttachType::Ingress,
        Side::Egress => TcAttachType::Egress,
    }
}
