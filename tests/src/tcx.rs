//! Programs of nobody's on an interface: ones that let everything go on, before all others or after one; one that only redirects.
//! In: an interface's index in a namespace. Out: a handle; the program goes with it.
//! Invariant: neither reads a header or a table.
//! Never: needs an object file or a loader.

use crate::NetNs;
use anyhow::{Context as _, Result};
use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// Numbers of include/uapi/linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const F_BEFORE: u32 = 1 << 3;
const F_AFTER: u32 = 1 << 4;

/// `r0 = TCX_NEXT; exit`.
const GO_ON: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    at: u64,
    license: u64,
    rest: [u64; 12],
}

#[repr(C)]
#[derive(Default)]
struct Link {
    program: u32,
    interface: u32,
    hook: u32,
    flags: u32,
    /// The descriptor of a program it is put before or after.
    beside: u32,
    pad: u32,
    rest: [u64; 3],
}

/// Puts it at the ingress of an interface of `namespace`.
///
/// # Errors
/// The kernel refuses.
pub fn put_first(namespace: &NetNs, ifindex: u32) -> Result<OwnedFd> {
    namespace.inside(|| attach(&GO_ON, ifindex, F_BEFORE))
}

/// A program that redirects whatever comes from the pod behind interface `from` to the pod behind `to`, and looks at nothing.
/// Call it in their namespace.
///
/// # Errors
/// The kernel refuses.
pub fn redirect(from: u32, to: u32) -> Result<OwnedFd> {
    // r1 = to; r2 = 0; call bpf_redirect_peer; exit.
    attach(&[u64::from(to) << 32 | 0x01b7, 0x02b7, 155 << 32 | 0x85, 0x95], from, 0)
}

/// A program that takes its time after another one at an interface's ingress, and lets everything go on. Call it in the
/// interface's namespace.
///
/// # Errors
/// The kernel refuses.
pub fn linger_after(program: BorrowedFd<'_>, ifindex: u32) -> Result<OwnedFd> {
    // r6 = 1000; call bpf_ktime_get_ns; r6 -= 1; if r6 != 0 goto the call; r0 = TCX_NEXT; exit.
    let linger = [1000 << 32 | 0x06b7, 5 << 32 | 0x85, 0xffff_ffff_0000_0607, 0xfffd_0655, GO_ON[0], GO_ON[1]];
    attach_beside(&linger, ifindex, F_AFTER, Some(program))
}

/// Loads instructions and puts them at an interface's ingress, in the caller's namespace.
fn attach(instructions: &[u64], ifindex: u32, flags: u32) -> Result<OwnedFd> {
    attach_beside(instructions, ifindex, flags, None)
}

fn attach_beside(instructions: &[u64], ifindex: u32, flags: u32, beside: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let load = Load {
        kind: SCHED_CLS,
        instructions: u32::try_from(instructions.len()).context("too many instructions")?,
        at: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    let program = call(PROG_LOAD, &load).context("loading a program of nobody's")?;
    let number = u32::try_from(program.as_raw_fd()).context("a descriptor")?;
    let beside = beside.map_or(Ok(0), |beside| u32::try_from(beside.as_raw_fd())).context("a descriptor")?;
    let link = Link { program: number, interface: ifindex, hook: TCX_INGRESS, flags, beside, ..Link::default() };
    call(LINK_CREATE, &link).context("attaching a program of nobody's")
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the attributes, whose tail is zero, and what they point at; all of it outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
