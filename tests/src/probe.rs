//! Probes: one real exchange from one namespace to one address.
//! In: where from, where to, which protocol and port. Out: what a program there would have met.
//! Invariant: `Allowed` means that the peer's own words came back; silence is `Refused`, and nothing else is.
//! Never: retries; who wants to wait asks again (`wait`).

use crate::{NetNs, raw};
use anyhow::{Context as _, Result};
use std::{
    fmt,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

/// How long silence must last to count as refusal. An allowed exchange takes microseconds.
pub const SILENCE: Duration = Duration::from_millis(600);

/// What to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Connect, read the greeting, have a word echoed.
    Tcp(u16),
    /// Have a datagram echoed.
    Udp(u16),
    /// Have an INIT acknowledged.
    Sctp(u16),
    /// Have an echo request answered.
    Ping,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "TCP {port}"),
            Self::Udp(port) => write!(f, "UDP {port}"),
            Self::Sctp(port) => write!(f, "SCTP {port}"),
            Self::Ping => f.write_str("ping"),
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer answered.
    Allowed,
    /// Silence.
    Refused,
    /// The peer's stack said that nobody listens.
    Reset,
    /// A router said that there is no way.
    Unreachable,
}

impl Outcome {
    /// One letter, as in a table of expectations.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Allowed => '.',
            Self::Refused => 'X',
            Self::Reset => 'R',
            Self::Unreachable => 'U',
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Reset => "nobody listens",
            Self::Unreachable => "unreachable",
        })
    }
}

/// Tries `probe` from `from`.
///
/// # Errors
/// The probe itself could not be made; what the network did to it is an [`Outcome`].
pub fn probe(from: &NetNs, to: IpAddr, probe: Probe) -> Result<Outcome> {
    from.inside(|| match probe {
        Probe::Tcp(port) => outcome(tcp(SocketAddr::new(to, port))),
        Probe::Udp(port) => outcome(udp(SocketAddr::new(to, port))),
        Probe::Sctp(port) => raw::sctp_init(to, port, fresh(), SILENCE).map(answered),
        Probe::Ping => raw::ping(to, fresh(), SILENCE).map(answered),
    })
}

fn answered(yes: bool) -> Outcome {
    if yes { Outcome::Allowed } else { Outcome::Refused }
}

/// A port or identifier that no probe of this process used lately.
fn fresh() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    33_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 27_000
}

/// A socket in the calling thread's namespace to ask `to` by, from a port that no other of this process had lately: a client that
/// asks one backend by two of its addresses from one port is refused the second time, and ports that the kernel gives come again.
///
/// # Errors
/// The kernel has none.
pub fn socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    loop {
        match UdpSocket::bind((any, fresh())) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
}

fn tcp(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    read_line(&mut stream)?;
    stream.write_all(b"word\n")?;
    let echoed = read_line(&mut stream)?;
    if echoed == "word" { Ok(()) } else { Err(io::Error::other(format!("said word, heard {echoed:?}"))) }
}

/// Reads to the end of the line, which is not part of the answer.
///
/// # Errors
/// The stream ends, is silent for its timeout, or is not text.
pub fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return String::from_utf8(line).map_err(io::Error::other);
        }
        line.extend(byte);
    }
}

fn udp(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.send(b"word")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    if buffer[..length].ends_with(b"\nword") { Ok(()) } else { Err(io::Error::other("the echo is not the word")) }
}

fn outcome(result: io::Result<()>) -> Result<Outcome> {
    let Err(error) = result else { return Ok(Outcome::Allowed) };
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Outcome::Refused),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Ok(Outcome::Reset),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(Outcome::Unreachable),
        _ => Err(error).context("probing"),
    }
}
