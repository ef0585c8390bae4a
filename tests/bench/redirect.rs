//! The least that a program at a pod's interface costs: it redirects to the other pod, and does nothing else.
//! In: two interfaces of a node. Out: a program on each, for as long as the value lives.
//! Invariant: four instructions: no header is read, no table asked; what a policy costs is beyond this.
//! Never: is part of Tortie.

use anyhow::{Context as _, Result};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_FUNC_REDIRECT_PEER: i32 = 155;

/// `struct bpf_insn` (include/uapi/linux/bpf.h).
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The beginning of `union bpf_attr` as BPF_PROG_LOAD reads it, as far as `expected_attach_type`.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

/// The same as BPF_LINK_CREATE reads it.
#[repr(C)]
struct Create {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    tcx: [u64; 2],
}

/// Redirects whatever comes from the pod behind interface `from` to the pod behind `to`. Call it in their namespace.
///
/// # Errors
/// The kernel refuses (before 6.6 it has no TCX).
pub fn redirect(from: u32, to: u32) -> Result<OwnedFd> {
    let move_immediate = |register, immediate| Instruction { code: 0xb7, registers: register, offset: 0, immediate };
    let program = [
        move_immediate(1, to.cast_signed()),
        move_immediate(2, 0),
        Instruction { code: 0x85, registers: 0, offset: 0, immediate: BPF_FUNC_REDIRECT_PEER },
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ];
    let load = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        ifindex: 0,
        attach_type: BPF_TCX_INGRESS,
    };
    let program = bpf(BPF_PROG_LOAD, &load).context("loading a redirect")?;
    let create = Create {
        program: program.as_raw_fd().cast_unsigned(),
        ifindex: from,
        attach_type: BPF_TCX_INGRESS,
        flags: 0,
        tcx: [0; 2],
    };
    bpf(BPF_LINK_CREATE, &create).context("attaching a redirect")
}

fn bpf<T>(command: i64, attributes: &T) -> std::io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes there, which live until the call returns, and writes none.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if answer < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: both commands answer with a descriptor that is the caller's.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as i32) })
}
