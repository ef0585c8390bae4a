//! Attachment by clsact: a BPF filter of our name, first in line, which the kernel keeps while no agent runs.
//! In: a program and an interface index. Out: a filter that runs it.
//! Invariant: a filter is replaced in its place; a clsact is ours if a folder beside the links' pins says that we made it.
//! Never: removes a filter of another name, or a clsact on which a filter is left; a clsact under traffic, for the kernel drops what
//! the stack sends there meanwhile.

use crate::{pins, programs::Hook, tcx::Failure};
use aya::programs::SchedClassifier;
use model::Ifindex;
use netlink::{Filter, Side, Socket};
use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

/// Before all that chose no priority of their own.
const FIRST: u16 = 1;
/// Among the filters of that priority; the number of our routes' protocol.
const HANDLE: u32 = 84;
/// The next, for one that shares an interface's side and priority with another of ours: which of the two is first is all one.
const SECOND_HANDLE: u32 = 85;

/// How the filter of a hook is known, on any kernel and after any restart.
fn filter(hook: Hook, ifindex: u32) -> Filter {
    let name = format!("tortie/{}", hook.program());
    // A program that has others of ours before it comes right after those.
    let priority = match hook {
        Hook::FromUplink | Hook::ToIpip => FIRST + 2,
        Hook::FromHostEndpoint | Hook::ToHostEndpoint => FIRST + 1,
        _ => FIRST,
    };
    let handle = if hook == Hook::FromNode { SECOND_HANDLE } else { HANDLE };
    Filter { interface: Ifindex(ifindex), side: hook.side(), priority, handle, name, program: None }
}

/// By its name, wherever an earlier agent put it.
fn is_ours(found: &Filter, hook: Hook) -> bool {
    let ours = filter(hook, found.interface.0);
    (found.side, &found.name) == (ours.side, &ours.name)
}

fn is_in_place(found: &Filter, hook: Hook) -> bool {
    is_ours(found, hook) && *found == Filter { program: found.program, ..filter(hook, found.interface.0) }
}

/// What is known of an interface before a filter is put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its clsact was made by this process: no former agent's filter can be there.
    Fresh,
    /// Nothing is.
    Unknown,
}

/// Puts a filter there, or the program into the filter that is there. Says whether the clsact is this process's own.
///
/// # Errors
/// The kernel refuses; what was attached before stays.
pub fn attach(
    program: &SchedClassifier,
    hook: Hook,
    (ifindex, mut found): (u32, Found),
    dir: &Path,
) -> Result<Found, Failure> {
    let mut socket = Socket::open()?;
    let filter = filter(hook, ifindex);
    let program = program.fd()?.as_fd();
    // The clsact is there but for the first time.
    if !made_by_us(ifindex, dir).exists() || socket.replace_filter(&filter, program).is_err() {
        found = add_clsact(&mut socket, ifindex, dir)?;
        socket.replace_filter(&filter, program)?;
    }
    if found == Found::Unknown {
        remove_where(&mut socket, ifindex, hook, |found| !is_in_place(found, hook))?;
    }
    Ok(found)
}

/// Takes away those of our filters at a hook of which this is so.
fn remove_where(socket: &mut Socket, ifindex: u32, hook: Hook, is_it: impl Fn(&Filter) -> bool) -> Result<(), Failure> {
    let found = socket.filters(Ifindex(ifindex), hook.side())?;
    for filter in found.iter().filter(|found| is_ours(found, hook) && is_it(found)) {
        socket.delete_filter(filter)?;
    }
    Ok(())
}

/// Whether our filter is there and runs this program.
///
/// # Errors
/// The kernel does not list its filters.
pub fn is_attached(program: &SchedClassifier, hook: Hook, ifindex: u32, socket: &mut Socket) -> Result<bool, Failure> {
    let own = program.info()?.id();
    let filters = socket.filters(Ifindex(ifindex), hook.side())?;
    Ok(filters.iter().any(|found| is_in_place(found, hook) && found.program == Some(own)))
}

/// Makes the clsact, unless there is one, and says that it is ours before it is.
fn add_clsact(socket: &mut Socket, ifindex: u32, dir: &Path) -> Result<Found, Failure> {
    let says = made_by_us(ifindex, dir);
    let said = match fs::create_dir(&says) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error.into()),
    };
    let added = socket.add_clsact(Ifindex(ifindex));
    if said && !matches!(added, Ok(true)) {
        // Another's, or none.
        pins::remove_link(&says)?;
    }
    Ok(if added? { Found::Fresh } else { Found::Unknown })
}

/// The folder that says so. A bpffs has no files of its own; it is gone when the interfaces are, with a reboot.
fn made_by_us(ifindex: u32, dir: &Path) -> PathBuf {
    dir.join(format!("{ifindex}-clsact"))
}

/// Takes our filter away. The clsact stays: without filters it costs nothing.
///
/// # Errors
/// The kernel refuses.
pub fn detach(hook: Hook, ifindex: u32) -> Result<(), Failure> {
    remove_where(&mut Socket::open()?, ifindex, hook, |_| true)
}

fn remove_clsact(socket: &mut Socket, ifindex: u32, dir: &Path) -> Result<(), Failure> {
    let says = made_by_us(ifindex, dir);
    let interface = Ifindex(ifindex);
    let is_empty =
        socket.filters(interface, Side::Ingress)?.is_empty() && socket.filters(interface, Side::Egress)?.is_empty();
    if says.exists() && is_empty {
        socket.delete_clsact(interface)?;
        pins::remove_link(&says)?;
    }
    Ok(())
}

/// Our filters in the calling thread's network namespace.
///
/// # Errors
/// The kernel does not list them.
pub fn ours() -> Result<Vec<(u32, Hook)>, netlink::Error> {
    let mut socket = Socket::open()?;
    let mut found = Vec::new();
    for interface in socket.filtered_links()? {
        for hook in Hook::ALL {
            let filters = socket.filters(interface, hook.side())?;
            found.extend(filters.iter().any(|filter| is_ours(filter, hook)).then_some((interface.0, hook)));
        }
    }
    Ok(found)
}

/// Takes away every filter of ours, and each clsact that we made unless others use it now.
///
/// # Errors
/// The kernel refuses.
pub fn remove(dir: &Path) -> Result<(), Failure> {
    let mut interfaces: BTreeSet<u32> = pins::links(dir).into_iter().filter_map(|(_, ifindex)| ifindex).collect();
    let mut socket = Socket::open()?;
    for (ifindex, hook) in ours()? {
        remove_where(&mut socket, ifindex, hook, |_| true)?;
        interfaces.insert(ifindex);
    }
    interfaces.into_iter().try_for_each(|ifindex| remove_clsact(&mut socket, ifindex, dir))
}
