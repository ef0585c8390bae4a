//! What the runtime is told when something fails.
//! In: any error of this crate. Out: a CNI error object with a code the runtime acts on.
//! Invariant: 11 only where trying again can help; 3 never, for it would make the runtime skip its DEL (CNI-E3).
//! Never: more than one line in `msg`.

use crate::{client::CallError, protocol::Fault};
use netlink::{Error as NetlinkError, namespace::NamespaceError, sysctl::SysctlError};
use serde::Serialize;

/// A CNI error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The configuration's version is not spoken here, or does not have the command.
    pub const VERSION: Self = Self(1);
    /// A key's value has no meaning here.
    pub const UNSUPPORTED: Self = Self(2);
    /// An environment variable is missing or cannot be used.
    pub const ENVIRONMENT: Self = Self(4);
    /// Standard input cannot be read.
    pub const IO: Self = Self(5);
    /// Standard input is not JSON.
    pub const DECODE: Self = Self(6);
    /// The configuration cannot be used.
    pub const CONFIGURATION: Self = Self(7);
    /// `CNI_NETNS` is no namespace a pod could have.
    pub const NAMESPACE: Self = Self(8);
    /// Try again later.
    pub const LATER: Self = Self(11);
    /// STATUS: an ADD cannot be served.
    pub const UNAVAILABLE: Self = Self(50);
    /// STATUS: an ADD cannot be served, and pods may be limited too.
    pub const LIMITED: Self = Self(51);
    /// CHECK: something of the attachment is not as it was left. `-t`: the datastore cannot be used.
    pub const CHANGED: Self = Self(100);
    /// The pod's interface cannot be wired.
    pub const WIRING: Self = Self(101);
    /// Another plugin failed and did not say how.
    pub const DELEGATE: Self = Self(102);
    /// "Container unknown": the runtime would skip its DEL, and what is left would stay.
    pub(crate) const UNKNOWN_CONTAINER: Self = Self(3);
}

/// An error for the runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the runtime acts on.
    pub code: Code,
    /// One line: what, where, what to do.
    pub message: String,
    /// More, or empty.
    pub details: String,
}

impl Failure {
    /// Without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: one_line(message.into()), details: String::new() }
    }

    /// The error object, in the configuration's version where that is known.
    #[must_use]
    pub fn to_json(&self, version: &str) -> serde_json::Value {
        let mut object = serde_json::json!({ "cniVersion": version, "code": self.code, "msg": self.message });
        if !self.details.is_empty() {
            object["details"] = self.details.clone().into();
        }
        object
    }
}

/// The same text on one line: what the input says may have lines' ends in it.
pub(crate) fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(Fault { code, message, details }) => Self { code: Code(code), message, details },
            CallError::Unreachable { .. } | CallError::TimedOut { .. } | CallError::Broken { .. } => {
                Self::new(Code::LATER, error.to_string())
            }
            CallError::Unreadable { .. } | CallError::Unexpected { .. } => Self::new(Code::IO, error.to_string()),
        }
    }
}

impl From<NetlinkError> for Failure {
    fn from(error: NetlinkError) -> Self {
        Self::new(Code::WIRING, error.to_string())
    }
}

impl From<SysctlError> for Failure {
    fn from(error: SysctlError) -> Self {
        Self::new(Code::WIRING, error.to_string())
    }
}

impl From<NamespaceError> for Failure {
    fn from(error: NamespaceError) -> Self {
        Self::new(Code::NAMESPACE, error.to_string())
    }
}
