//! Why the kernel did not do what was asked.
//! In: an operation, its object and the kernel's errno. Out: one line that names all three.
//! Invariant: "is not there" and "is there already" can be told from every other reason.
//! Never: loses the errno.

use std::{fmt, io};

/// A request that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {reason}")]
pub struct Error {
    /// What was tried: "delete link".
    pub operation: &'static str,
    /// On what: "cali0123456789a".
    pub object: String,
    /// Why not.
    #[source]
    pub reason: Reason,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The kernel refused, or the socket failed.
    #[error("{0}")]
    Kernel(#[from] io::Error),
    /// No answer within the socket's timeout.
    #[error("the kernel did not answer in time; try again")]
    TimedOut,
    /// The listing changed under the reader each time it was tried.
    #[error("the list kept changing while it was read; try again")]
    Interrupted,
    /// An answer this library cannot read.
    #[error("the kernel's answer cannot be read: {0}")]
    Unreadable(String),
}

impl Error {
    pub(crate) fn new(operation: &'static str, object: impl fmt::Display, reason: impl Into<Reason>) -> Self {
        Self { operation, object: object.to_string(), reason: reason.into() }
    }

    /// The kernel's errno, if it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        match &self.reason {
            Reason::Kernel(error) => rustix::io::Errno::from_io_error(error),
            Reason::TimedOut | Reason::Interrupted | Reason::Unreadable(_) => None,
        }
    }

    /// The object, or the interface it belongs to, is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        use rustix::io::Errno;
        [Errno::NODEV, Errno::NOENT, Errno::SRCH, Errno::ADDRNOTAVAIL, Errno::NXIO]
            .iter()
            .any(|absent| self.errno() == Some(*absent))
    }

    /// The object is there already.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::EXIST)
    }
}

/// `Ok(false)` for what was not there to be deleted.
pub(crate) fn deleted(outcome: Result<(), Error>) -> Result<bool, Error> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_operation_object_and_the_kernels_word() {
        let error = Error::new("delete link", "cali1", io::Error::from_raw_os_error(19));
        assert_eq!(error.to_string(), "delete link cali1: No such device (os error 19)");
        assert!(error.is_absent() && !error.is_present());
    }

    #[test]
    fn only_absence_counts_as_already_deleted() {
        let of = |errno| deleted(Err(Error::new("delete", "x", io::Error::from_raw_os_error(errno))));
        assert!(matches!(of(3), Ok(false)), "ESRCH");
        assert!(of(1).is_err(), "EPERM");
    }
}
