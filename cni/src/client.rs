//! One question to the agent, synchronously.
//! In: a socket's path and a request. Out: the answer, or why there is none.
//! Invariant: waits no longer than the request's deadline and a moment for the answer to travel.
//! Never: asks twice; whether to repeat is the runtime's choice.

use crate::protocol::{Answer, Fault, MESSAGE_MAX, Operation, PROTOCOL_VERSION, Reply, Request};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tortie/tortie.sock";
/// So that an agent that answers at its deadline is still heard.
const GRACE: Duration = Duration::from_millis(500);

/// No good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error(
        "agent socket {socket:?}: {source}; start `tortie run` on this node, or set \"socket\" to where it listens"
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// No answer in time.
    #[error("agent socket {socket:?}: no answer within {waited_ms} ms; see the agent's log, then try again")]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// How long was waited.
        waited_ms: u64,
    },
    /// The agent went away in the middle.
    #[error("agent socket {socket:?}: {source} before the answer was complete; the agent may be restarting, try again")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// An answer that is none of this protocol.
    #[error(
        "agent socket {socket:?}: {reason}; are tortie-cni and the agent of one version (protocol {PROTOCOL_VERSION})?"
    )]
    Unreadable {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A good answer to another question.
    #[error("agent socket {socket:?}: the answer does not belong to the question; are both of one version?")]
    Unexpected {
        /// The socket.
        socket: PathBuf,
    },
    /// The agent says no.
    #[error(transparent)]
    Refused(#[from] Fault),
}

/// Asks `operation`, waiting at most `limit`.
///
/// # Errors
/// See [`CallError`].
pub fn ask(socket: &Path, limit: Duration, operation: Operation) -> Result<Answer, CallError> {
    let deadline_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    call(socket, &Request { version: operation.version(), deadline_ms, operation })
}

/// Sends one request and waits for its reply, until the request's own deadline.
///
/// # Errors
/// See [`CallError`].
pub fn call(socket: &Path, request: &Request) -> Result<Answer, CallError> {
    let call = Call::new(socket, Duration::from_millis(request.deadline_ms).saturating_add(GRACE));
    let unreadable = |reason: String| CallError::Unreadable { socket: socket.to_owned(), reason };
    let body = serde_json::to_vec(request).map_err(|error| unreadable(error.to_string()))?;
    let mut stream = call.connect()?;
    call.send(&mut stream, &body)?;
    let body = call.receive(&mut stream)?;
    let reply: Reply = serde_json::from_slice(&body).map_err(|error| unreadable(error.to_string()))?;
    Ok(reply?)
}

/// The length and body of a message.
///
/// # Errors
/// The body is longer than [`MESSAGE_MAX`].
pub fn frame(body: &[u8]) -> Result<Vec<u8>, String> {
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MESSAGE_MAX);
    let length = length.ok_or_else(|| format!("a message of {} bytes is above {MESSAGE_MAX}", body.len()))?;
    Ok([&length.to_be_bytes(), body].concat())
}

struct Call<'a> {
    socket: &'a Path,
    limit: Duration,
    begun: Instant,
}

impl<'a> Call<'a> {
    fn new(socket: &'a Path, limit: Duration) -> Self {
        Self { socket, limit, begun: Instant::now() }
    }

    /// What is left; a socket timeout of zero would mean "for ever".
    fn left(&self) -> Result<Duration, CallError> {
        let left = self.limit.saturating_sub(self.begun.elapsed());
        if left.is_zero() { Err(self.timed_out()) } else { Ok(left) }
    }

    fn timed_out(&self) -> CallError {
        let waited_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        CallError::TimedOut { socket: self.socket.to_owned(), waited_ms }
    }

    fn broken(&self, source: io::Error) -> CallError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.timed_out(),
            _ => CallError::Broken { socket: self.socket.to_owned(), source },
        }
    }

    /// `UnixStream::connect` waits for ever where the agent's queue is full; the send timeout bounds it.
    fn connect(&self) -> Result<UnixStream, CallError> {
        let unreachable = |errno: rustix::io::Errno| match errno {
            rustix::io::Errno::AGAIN => self.timed_out(),
            errno => CallError::Unreachable { socket: self.socket.to_owned(), source: errno.into() },
        };
        let address = SocketAddrUnix::new(self.socket).map_err(unreachable)?;
        let kind = SocketType::STREAM;
        let fd =
            rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map_err(unreachable)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(self.left()?)).map_err(unreachable)?;
        rustix::net::connect(&fd, &address).map_err(unreachable)?;
        Ok(fd.into())
    }

    fn send(&self, stream: &mut UnixStream, body: &[u8]) -> Result<(), CallError> {
        let framed = frame(body).map_err(|reason| CallError::Unreadable { socket: self.socket.to_owned(), reason })?;
        stream.set_write_timeout(Some(self.left()?)).map_err(|error| self.broken(error))?;
        stream.write_all(&framed).map_err(|error| self.broken(error))
    }

    fn receive(&self, stream: &mut UnixStream) -> Result<Vec<u8>, CallError> {
        let mut head = [0; 4];
        self.fill(stream, &mut head)?;
        let length = u32::from_be_bytes(head);
        if length > MESSAGE_MAX {
            let reason = format!("it announces {length} bytes, above {MESSAGE_MAX}");
            return Err(CallError::Unreadable { socket: self.socket.to_owned(), reason });
        }
        let mut body = vec![0; length as usize];
        self.fill(stream, &mut body)?;
        Ok(body)
    }

    /// As `read_exact`, with the deadline over all reads together.
    fn fill(&self, stream: &mut UnixStream, buffer: &mut [u8]) -> Result<(), CallError> {
        let mut filled = 0;
        while filled < buffer.len() {
            stream.set_read_timeout(Some(self.left()?)).map_err(|error| self.broken(error))?;
            match stream.read(&mut buffer[filled..]) {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }
}
