//! What goes wrong on the way to etcd.
//! In: what tonic says. Out: why there is no answer, and whether another member may have one.
//! Invariant: a refusal is told in the words of who refused, with what lies behind "transport error".
//! Never: decides to ask again.

use std::path::PathBuf;
use tonic::{Code, Status};

/// Why there is no way to it.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// A certificate, a key or a password.
    #[error("{path}: cannot be used for etcd: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An endpoint.
    #[error("{endpoint:?} cannot be an etcd's endpoint: {reason}")]
    Endpoint {
        /// It.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The folder of last good policies.
    #[error(transparent)]
    LastGood(crate::OpenError),
    /// A thread could not be made.
    #[error("etcd cannot be asked: {0}")]
    Client(String),
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// etcd refuses, or cannot be reached.
    Refused(Box<Status>),
    /// It says nothing.
    Silent,
    /// It cannot even be asked.
    Unusable(EtcdError),
}

impl Unanswered {
    /// Another member may answer.
    pub(super) fn is_of_the_way(&self) -> bool {
        match self {
            Self::Refused(status) => is_of_the_way(status.code()),
            Self::Silent => true,
            Self::Unusable(_) => false,
        }
    }

    /// The revision is not kept any more, or not yet there.
    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::OutOfRange && !self.is_too_large())
    }

    /// The answer is larger than what is read.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::OutOfRange && status.message().contains("too large"))
    }
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(status) => f.write_str(&in_full(status)),
            Self::Silent => f.write_str("it does not answer"),
            Self::Unusable(error) => error.fmt(f),
        }
    }
}

/// What etcd says, or what lies behind "transport error".
pub(super) fn in_full(status: &Status) -> String {
    let mut said = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said
}

/// Whether this says nothing of the question.
pub(super) fn is_of_the_way(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Internal | Code::DeadlineExceeded | Code::Cancelled)
}
