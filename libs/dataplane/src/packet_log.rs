//! What the programs log, where they were built to: `cargo xtask build-ebpf --log`.
//! In: the object's ring of records. Out: lines of the agent's own log, at level debug.
//! Invariant: an object without records costs nothing.
//! Never: in a release; a record is a copy on the packet's way.

use crate::programs::in_full;
use aya::Ebpf;
use aya_log::{EbpfLogger, Error};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use std::thread;

/// Where the records are, in an object that has any.
pub const MAP: &str = "AYA_LOGS";

/// Shows the records from now on, in a thread that ends with the process.
///
/// # Errors
/// In words: the ring cannot be read, or no thread can be started.
pub fn follow(ebpf: &mut Ebpf) -> Result<(), String> {
    let mut records = match EbpfLogger::init(ebpf) {
        Ok(records) => records,
        Err(Error::MapNotFound) => return Ok(()),
        Err(error) => return Err(format!("the programs' log: {}", in_full(&error))),
    };
    let run = move || {
        while matches!(poll(&mut [PollFd::new(&records, PollFlags::IN)], None), Ok(_) | Err(Errno::INTR)) {
            records.flush();
        }
    };
    let thread = thread::Builder::new().name("packet-log".into()).spawn(run);
    thread.map(drop).map_err(|error| format!("the programs' log: {error}"))
}
