//! A test run of a packet that hardware has summed: the kernel says whether its sum is still the packet's.
//! In: a hook and a packet. Out: the packet; where the kernel can keep such a sum, it was right afterwards.
//! Invariant: the sum that is kept is over all from the IP header on, as a network card hands it over (`CHECKSUM_COMPLETE`).
//! Never: less than an ordinary test run.

use super::{IFINDEX, INGRESS_IFINDEX, Kernel, SK_BUFF, program_of};
use crate::table::Hook;
use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

const BPF_PROG_TEST_RUN: libc::c_long = 10;
/// Linux 6.16 and later.
const BPF_F_TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// `union bpf_attr` (include/uapi/linux/bpf.h), as far as a test run goes.
#[repr(C)]
#[derive(Default)]
struct Run {
    program: i32,
    result: u32,
    len_in: u32,
    len_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    took: u32,
    context_len_in: u32,
    context_len_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    pad: u32,
}

impl Kernel {
    /// Runs the live program of a hook on a summed packet.
    pub fn run_summed(&self, hook: Hook, bytes: &[u8]) -> Vec<u8> {
        match self.run_flagged(hook, bytes, BPF_F_TEST_SKB_CHECKSUM_COMPLETE) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.run_flagged(hook, bytes, 0),
            run => run,
        }
        .expect("the sum is the packet's")
    }

    fn run_flagged(&self, hook: Hook, bytes: &[u8], flags: u32) -> io::Result<Vec<u8>> {
        let (program, interface, by) = program_of(hook);
        let mut context = [0; SK_BUFF];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&self.index_of(&interface));
        if let Some(by) = by {
            context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&self.index_of(&by));
        }
        let program = self.program(program);
        let mut out = vec![0u8; bytes.len() + 256];
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a test's packet is short");
        let mut run = Run {
            program: program.fd().expect("it is loaded").as_fd().as_raw_fd(),
            len_in: length(bytes),
            len_out: length(&out),
            data_in: bytes.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            repeat: 1,
            context_len_in: length(&context),
            context_in: context.as_ptr() as u64,
            flags,
            ..Run::default()
        };
        // SAFETY: the kernel reads the packet and the context and writes the output, each of the length that stands beside it.
        let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut run, size_of::<Run>()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        out.truncate(run.len_out as usize);
        Ok(out)
    }
}
