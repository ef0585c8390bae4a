//! Long-lived flows: a connection that stays, and streams whose losses are counted.
//! In: a namespace and a server's address. Out: answers one by one, or a report of how many came back.
//! Invariant: every word carries its number, so a late or doubled answer is not taken for the next one.
//! Never: hides a loss; what TCP sent again is counted too.

use crate::{NetNs, netns, probe, wait::PATIENCE};
use anyhow::{Context as _, Result, ensure};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Pause between two words of a background stream.
const BEAT: Duration = Duration::from_millis(2);

/// A TCP connection to an echo server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    words: u64,
}

impl Connection {
    /// Connects from `from`.
    ///
    /// # Errors
    /// The server does not answer within [`PATIENCE`]: unlike a probe it is meant to succeed, on a busy machine too.
    pub fn open(from: &NetNs, to: IpAddr, port: u16) -> Result<Self> {
        let to = SocketAddr::new(to, port);
        let mut stream =
            from.inside(|| TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connecting to {to}")))?;
        stream.set_nodelay(true).context("a socket option")?;
        stream.set_read_timeout(Some(PATIENCE)).context("a socket option")?;
        probe::read_line(&mut stream).with_context(|| format!("reading the greeting of {to}"))?;
        stream.set_read_timeout(Some(probe::SILENCE)).context("a socket option")?;
        Ok(Self { stream, words: 0 })
    }

    /// Whether one more word comes back; `false` after [`probe::SILENCE`]. A connection that was silent once may
    /// answer late, so it is not asked again.
    ///
    /// # Errors
    /// The connection was reset or closed.
    pub fn answers(&mut self) -> Result<bool> {
        self.words += 1;
        let word = format!("{}", self.words);
        self.stream.write_all(format!("{word}\n").as_bytes()).context("sending a word")?;
        match probe::read_line(&mut self.stream) {
            Ok(heard) => {
                ensure!(heard == word, "said {word}, heard {heard}");
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error).context("hearing a word"),
        }
    }
}

/// What a stream met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Words sent.
    pub sent: u64,
    /// Words that came back.
    pub echoed: u64,
}

impl Report {
    /// Words that did not come back.
    #[must_use]
    pub fn lost(self) -> u64 {
        self.sent - self.echoed
    }
}

/// Words sent in the background, one after the other, until stopped.
#[derive(Debug)]
pub struct Stream {
    /// The client's own port.
    port: u16,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Report>>,
}

impl Stream {
    /// Over one TCP connection. A word that is late ends the stream, and counts as lost.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub fn tcp(from: &NetNs, to: IpAddr, port: u16) -> Result<Self> {
        let mut connection = Connection::open(from, to, port)?;
        let own = connection.stream.local_addr().context("asking for the client's port")?.port();
        Ok(Self::run(own, move |_| connection.answers()))
    }

    /// In datagrams from one socket.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn udp(from: &NetNs, to: IpAddr, port: u16) -> Result<Self> {
        let to = SocketAddr::new(to, port);
        let socket = from.inside(|| {
            let socket = probe::socket(to).context("binding a UDP socket")?;
            socket.connect(to).context("connecting a UDP socket")?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(probe::SILENCE)).context("a socket option")?;
        let own = socket.local_addr().context("asking for the client's port")?.port();
        Ok(Self::run(own, move |number| datagram(&socket, number)))
    }

    fn run(port: u16, mut exchange: impl FnMut(u64) -> Result<bool> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut report = Report { sent: 0, echoed: 0 };
            while !until.load(Ordering::Relaxed) {
                report.sent += 1;
                if !exchange(report.sent)? {
                    break;
                }
                report.echoed += 1;
                thread::sleep(BEAT);
            }
            Ok(report)
        });
        Self { port, stop, thread }
    }

    /// Segments of this connection that had to be sent again, by either end. Counters of a whole namespace would
    /// hold those of other connections, too: one that a policy cuts is sent again for minutes.
    ///
    /// # Errors
    /// There is no such connection.
    pub fn sent_again(&self, ends: [&NetNs; 2]) -> Result<u64> {
        ends.into_iter().map(|end| sent_again(end, self.port)).sum()
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// It was reset on the way.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What `ss` says of the connection over `port`: `retrans:NOW/EVER`, if there was any.
fn sent_again(end: &NetNs, port: u16) -> Result<u64> {
    let filter = format!("sport = :{port} or dport = :{port}");
    let said = netns::run(Command::new("ss").args(["-N", end.name(), "-tinHO", &filter]))?;
    ensure!(said.contains("rto:"), "no connection over port {port} in {}: {said}", end.name());
    let ever = said.split_whitespace().find_map(|word| word.strip_prefix("retrans:")?.split('/').nth(1));
    ever.map_or(Ok(0), |number| number.parse().context("reading a count of ss"))
}

fn datagram(socket: &UdpSocket, number: u64) -> Result<bool> {
    let word = number.to_string();
    socket.send(word.as_bytes()).context("sending a datagram")?;
    let mut buffer = [0; 512];
    match socket.recv(&mut buffer) {
        Ok(length) => Ok(buffer[..length].ends_with(format!("\n{word}").as_bytes())),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
        Err(error) => Err(error).context("receiving a datagram"),
    }
}

/// Segments that the kernel cuts itself, there and back, between `from` and a server of this name.
///
/// # Errors
/// What comes back is not what was sent.
pub fn much_comes_whole(from: &NetNs, (address, port): (IpAddr, u16), name: &str) -> Result<()> {
    let sent: Vec<u8> = (0..4_000_000u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut stream = from.inside(|| Ok(TcpStream::connect(SocketAddr::new(address, port))?))?;
    ensure!(probe::read_line(&mut stream)? == name, "the greeting");
    let mut writer = stream.try_clone()?;
    let heard = thread::scope(|scope| -> Result<Vec<u8>> {
        let writes = scope.spawn(|| writer.write_all(&sent));
        let mut heard = vec![0; sent.len()];
        stream.read_exact(&mut heard)?;
        writes.join().expect("the writer does not panic")?;
        Ok(heard)
    })?;
    ensure!(heard == sent, "what comes back is what was sent");
    Ok(())
}
