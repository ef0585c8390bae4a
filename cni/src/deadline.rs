//! The one deadline of a command.
//! In: how long the command may take. Out: how long the next step may take.
//! Invariant: no step is begun after the deadline, except undoing.
//! Never: prolonged.

use crate::failure::{Code, Failure};
use std::time::{Duration, Instant};

/// Longest wait for one answer of the kernel.
const KERNEL_STEP: Duration = Duration::from_secs(5);

/// The one deadline of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    begun: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self { begun: Instant::now(), limit }
    }

    /// What is left for the next step.
    pub(crate) fn left(self) -> Result<Duration, Failure> {
        let left = self.limit.saturating_sub(self.begun.elapsed());
        if !left.is_zero() {
            return Ok(left);
        }
        let seconds = self.limit.as_secs();
        Err(Failure::new(
            Code::LATER,
            format!("not done within {seconds} s (timeoutSeconds); everything is undone, try again"),
        ))
    }

    /// A netlink socket of the calling thread's namespace that waits no longer than is left.
    pub(crate) fn socket(self) -> Result<netlink::Socket, Failure> {
        Ok(netlink::Socket::open_with_timeout(self.left()?.min(KERNEL_STEP))?)
    }
}
