//! What can go wrong, one small enum per operation.
//! In: errors of the kernel and of the file system. Out: sentences that say what, where and what to do.
//! Invariant: every error names the object it is about.
//! Never: one enum for the whole crate.

use crate::tables::SizeError;
use model::{AttachmentId, IfaceName};
use std::{io, path::PathBuf};

/// The dataplane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The tables' sizes make no sense.
    #[error("mapEntries: {0}")]
    Size(#[from] SizeError),
    /// The pin directory cannot be made or is not on a bpffs.
    #[error("cannot prepare the BPF file system at {path}: {source}; run as root, or mount a bpffs there")]
    Bpffs {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state directory cannot be made.
    #[error("cannot use the state directory {path}: {source}")]
    StateDir {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pinned map has another layout or size than this version asks for.
    #[error(
        "the pinned map {pin} has {property} {actual}, {expected} is asked for; \
         a table grows but does not shrink: set its size back in the configuration, or run `tortie cleanup` to start with empty tables"
    )]
    ForeignPin {
        /// The pin.
        pin: PathBuf,
        /// What differs.
        property: String,
        /// Wanted.
        expected: u64,
        /// Found.
        actual: u64,
    },
    /// A pinned map cannot grow to the size asked for.
    #[error("the map {map} cannot grow to the size asked for: {reason}; pods go on as they were")]
    Grow {
        /// The map.
        map: &'static str,
        /// Why.
        reason: String,
    },
    /// The kernel does not take the programs or maps.
    #[error("cannot load the kernel programs: {reason}")]
    Load {
        /// The kernel's or the loader's words.
        reason: String,
    },
    /// The object lacks a program or a map.
    #[error("the program object has no {kind} {name}: it was built from another version; build it again")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The pinned tables cannot be read back.
    #[error("cannot adopt the pinned tables: {reason}; run `tortie cleanup` to start with empty tables")]
    Adopt {
        /// Why.
        reason: String,
    },
    /// The kernel is too old for what was asked for.
    #[error("Linux {release} has no TCX, which --attach tcx asks for; leave it at auto, or run Linux 6.6 or later")]
    NoTcx {
        /// The kernel.
        release: String,
    },
    /// The programs cannot be attached to the uplink.
    #[error("cannot guard the uplink {interface}: {reason}")]
    Uplink {
        /// The interface.
        interface: IfaceName,
        /// Why.
        reason: String,
    },
    /// Netlink does not answer.
    #[error("cannot talk to the kernel's routing tables: {reason}")]
    Netlink {
        /// Why.
        reason: String,
    },
}

/// One item of a Desired could not be made so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct ApplyError {
    /// What was tried, e.g. `attach from_workload to cali12345678901`.
    pub step: String,
    /// Why it failed and what to do.
    pub reason: String,
}

/// A question cannot be asked of the kernel.
#[derive(Debug, thiserror::Error)]
pub enum TwinError {
    /// No such endpoint is in force.
    #[error("the endpoint {0} is not in force on this node")]
    NoEndpoint(AttachmentId),
    /// There is no uplink to ask at.
    #[error("the agent has no uplink interface: give one with --uplink to ask about traffic from outside")]
    NoUplink,
    /// The interface is not there.
    #[error("there is no interface {0} on this node")]
    NoInterface(IfaceName),
    /// Source and destination are not of one family.
    #[error("source and destination are not of one address family")]
    Families,
    /// The run failed.
    #[error("the dry run of {program} failed: {reason}")]
    Run {
        /// The twin.
        program: &'static str,
        /// Why.
        reason: String,
    },
    /// The program wrote no answer.
    #[error("the dry run of {program} gave no answer: programs and agent are of different versions; restart the agent")]
    Unanswered {
        /// The twin.
        program: &'static str,
    },
}

/// A table cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// No table has this name.
    #[error("there is no table {name:?}; there are {}", known.join(", "))]
    UnknownTable {
        /// What was asked.
        name: String,
        /// What could be.
        known: Vec<&'static str>,
    },
    /// The kernel did not give it.
    #[error("cannot read the map {map}: {reason}")]
    Read {
        /// The map.
        map: &'static str,
        /// Why.
        reason: String,
    },
}

/// Something is left over.
#[derive(Debug, thiserror::Error)]
#[error("not everything could be taken away: {}", left.join("; "))]
pub struct CleanupError {
    /// What is left, and why.
    pub left: Vec<String>,
}
