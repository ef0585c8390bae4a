//! The kernel that the agent found: its version, how programs are attached on it, and what it lacks.
//! In: the wish of the configuration, and the kernel's own answers. Out: [`Platform`], for status.
//! Invariant: probed once, at start, without changing anything.
//! Never: concludes from a version number what the kernel can be asked.

use crate::OpenError;
use aya::programs::{SchedClassifier, TcAttachType};
use netlink::{LOOPBACK, sysctl};
use std::fmt;

/// How programs shall be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// By clsact, and then by TCX where the kernel has it, once no pod waits for that.
    #[default]
    Auto,
    /// By TCX, or not at all.
    Tcx,
    /// By clsact, as on an older kernel.
    Clsact,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedBy {
    /// A link each, pinned.
    Tcx,
    /// A filter each.
    Clsact,
    /// A filter each at first, in whose place a link comes when no pod waits: to make a link takes a grace, during which
    /// the kernel changes no other interface.
    TcxInTheEnd,
}

impl fmt::Display for AttachedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::TcxInTheEnd => "clsact, then tcx",
        })
    }
}

/// The kernel as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// As `uname -r` says it.
    pub release: String,
    /// How programs are attached.
    pub attached_by: AttachedBy,
    /// What newer kernels have and this one lacks, and what follows.
    pub lacks: Vec<String>,
}

impl Platform {
    /// Asks the kernel.
    ///
    /// # Errors
    /// What is asked for is not there.
    pub fn probe(attach: Attach) -> Result<Self, OpenError> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let has_tcx = has_tcx();
        let attached_by = match attach {
            Attach::Auto if has_tcx => AttachedBy::TcxInTheEnd,
            Attach::Auto | Attach::Clsact => AttachedBy::Clsact,
            Attach::Tcx if has_tcx => AttachedBy::Tcx,
            Attach::Tcx => return Err(OpenError::NoTcx { release }),
        };
        let lacks = [(has_tcx, NO_TCX), (has_force_forwarding(), NO_FORCE_FORWARDING)];
        let lacks = lacks.iter().filter(|(has, _)| !has).map(|(_, text)| (*text).to_owned()).collect();
        Ok(Self { release, attached_by, lacks })
    }
}

const NO_TCX: &str = "TCX (Linux 6.6): programs are attached by clsact";
const NO_FORCE_FORWARDING: &str = "ipv6 force_forwarding (Linux 6.17): pods' IPv6 packets with a spent hop limit or above \
     the MTU get no ICMP error unless net.ipv6.conf.all.forwarding is 1";

/// Asks what is attached to the loopback interface: an older kernel does not know the question.
fn has_tcx() -> bool {
    SchedClassifier::query_tcx(LOOPBACK.0, TcAttachType::Ingress).is_ok()
}

/// Or no IPv6 at all, which needs none.
fn has_force_forwarding() -> bool {
    sysctl::read("ipv6/conf/lo/force_forwarding").is_ok() || sysctl::read("ipv6/conf/lo/forwarding").is_err()
}
