//! Traffic to measure: round trips, new connections and bulk, between two namespaces, by plain sockets.
//! In: a way from a client to servers and a window of time. Out: exchanges, or bytes, a second.
//! Invariant: latency rows run both ends on one core, so that no wake-up crosses cores; bulk gives each end its own.
//! Never: needs a program that is not here; judges a figure.

use crate::NetNs;
use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::{CpuSet, sched_setaffinity},
};
use serde::Serialize;
use std::{
    fmt,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

/// Port of every measured server.
pub const PORT: u16 = 5201;
/// Bound of every single wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of one bulk write.
const CHUNK: usize = 128 << 10;
/// Exchanges of a latency row between two looks at the clock.
const BURST: u32 = 16;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// One byte there and back over one TCP connection.
    RoundTrips,
    /// Connect, one byte there and back, close.
    NewConnections,
    /// One byte there and back in datagrams.
    UdpRoundTrips,
    /// The same, each from a socket of its own, as names are asked for.
    NewUdpFlows,
    /// Bytes over one TCP connection.
    Bulk,
}

impl Row {
    /// Those of a way to one server, in the order of tables.
    pub const ALL: [Self; 4] = [Self::RoundTrips, Self::NewConnections, Self::UdpRoundTrips, Self::Bulk];
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RoundTrips => "round trips",
            Self::NewConnections => "new connections",
            Self::UdpRoundTrips => "UDP round trips",
            Self::NewUdpFlows => "new UDP flows",
            Self::Bulk => "bulk",
        })
    }
}

/// From where to where.
#[derive(Clone, Debug)]
pub struct Way<'a> {
    /// Where the client runs.
    pub client: &'a NetNs,
    /// Where servers run, each at its own address.
    pub servers: Vec<(&'a NetNs, IpAddr)>,
    /// Whom the client asks, in turn: the servers, or who stands for them.
    pub to: Vec<IpAddr>,
}

impl<'a> Way<'a> {
    /// To one server by its own address.
    #[must_use]
    pub fn direct(client: &'a NetNs, server: &'a NetNs, address: IpAddr) -> Self {
        Self { client, servers: vec![(server, address)], to: vec![address] }
    }

    /// Sockets of all servers.
    fn bound<S: Send>(&self, bind: impl Fn(SocketAddr) -> io::Result<S> + Sync) -> Result<Vec<S>> {
        let one = |(server, address): &(&NetNs, IpAddr)| {
            server.inside(|| bind(SocketAddr::new(*address, PORT)).context("binding a server"))
        };
        self.servers.iter().map(one).collect()
    }

    /// Whom the exchange of this number is with.
    fn asked(&self, number: u32) -> SocketAddr {
        SocketAddr::new(self.to[number as usize % self.to.len()], PORT)
    }
}

/// Exchanges (bulk: bytes) a second over `window`.
///
/// # Errors
/// A packet did not come through in time.
pub fn measure(way: &Way<'_>, row: Row, window: Duration) -> Result<f64> {
    match row {
        Row::RoundTrips => tcp(way, 0, echo_bytes, |stream| round_trips(stream, window)),
        Row::Bulk => tcp(way, 1, swallow, |stream| bulk(stream, window)),
        Row::NewConnections => new_connections(way, window),
        Row::UdpRoundTrips => udp(way, false, window),
        Row::NewUdpFlows => udp(way, true, window),
    }
    .with_context(|| format!("measuring {row} to {}", way.asked(0)))
}

/// Keeps the current thread on one core; core 0 where there is no other.
fn pin(core: usize) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(core % cores);
    sched_setaffinity(None, &set).context("pinning a thread to its core")
}

/// Runs a server on one accepted connection and a client on the other end.
fn tcp(
    way: &Way<'_>,
    server_core: usize,
    serve: fn(TcpStream) -> io::Result<()>,
    drive: impl FnOnce(TcpStream) -> Result<f64> + Send,
) -> Result<f64> {
    let listeners = way.bound(TcpListener::bind)?;
    let stream = way.client.inside(|| TcpStream::connect_timeout(&way.asked(0), PATIENCE).context("connecting"))?;
    let (accepted, _) = next_of(&listeners)?.accept().context("accepting")?;
    for end in [&stream, &accepted] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(PATIENCE))?;
    }
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            pin(server_core)?;
            serve(accepted).context("serving")
        });
        let client = scope.spawn(move || {
            pin(0)?;
            drive(stream)
        });
        let figure = join(client)?;
        join(server)?;
        Ok(figure)
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn echo_bytes(mut stream: TcpStream) -> io::Result<()> {
    let mut byte = [0; 64];
    loop {
        match stream.read(&mut byte)? {
            0 => return Ok(()),
            length => stream.write_all(&byte[..length])?,
        }
    }
}

fn swallow(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&total.to_be_bytes()),
            length => total += length as u64,
        }
    }
}

fn round_trips(mut stream: TcpStream, window: Duration) -> Result<f64> {
    let mut byte = [1];
    repeat(window, || {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)
    })
}

/// Repeats an exchange until the window is over; exchanges a second.
fn repeat(window: Duration, mut exchange: impl FnMut() -> io::Result<()>) -> Result<f64> {
    let (start, mut count) = (Instant::now(), 0u32);
    while start.elapsed() < window {
        for _ in 0..BURST {
            exchange()?;
        }
        count += BURST;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

fn bulk(mut stream: TcpStream, window: Duration) -> Result<f64> {
    let chunk = vec![0; CHUNK];
    let start = Instant::now();
    while start.elapsed() < window {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total).context("hearing how much arrived")?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people; 53 bits count petabytes")]
    let bytes = u64::from_be_bytes(total) as f64;
    Ok(bytes / start.elapsed().as_secs_f64())
}

/// The socket at which something has come; of one alone that is asked by what is done with it.
fn next_of<S: AsFd>(sockets: &[S]) -> io::Result<&S> {
    if let [only] = sockets {
        return Ok(only);
    }
    let found = first_of(sockets, PATIENCE)?;
    found.map(|found| &sockets[found]).ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// Which socket something has come to; `None`: none in time.
///
/// # Errors
/// They cannot be watched.
pub fn first_of<S: AsFd>(sockets: &[S], patience: Duration) -> io::Result<Option<usize>> {
    let mut ready: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    poll(&mut ready, Some(&patience))?;
    Ok(ready.iter().position(|socket| !socket.revents().is_empty()))
}

fn new_connections(way: &Way<'_>, window: Duration) -> Result<f64> {
    let listeners = way.bound(TcpListener::bind)?;
    // Every port, so that a window never meets one of its own in TIME_WAIT.
    way.client.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin(0)?;
            serve_one_by_one(&listeners).context("serving")
        });
        let figure = way.client.inside(|| {
            pin(0)?;
            let mut number = 0;
            let figure = repeat(window, || {
                number += 1;
                one_connection(way.asked(number), 1)
            });
            one_connection(way.asked(0), 0)?;
            figure
        });
        let served = join(server);
        figure.and_then(|figure| served.map(|()| figure))
    })
}

/// Answers one byte a connection and closes first; a zero ends it.
fn serve_one_by_one(listeners: &[TcpListener]) -> io::Result<()> {
    loop {
        let (mut stream, _) = next_of(listeners)?.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
        if byte == [0] {
            return Ok(());
        }
    }
}

fn one_connection(to: SocketAddr, word: u8) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[word])?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match stream.read(&mut byte)? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than one byte came back")),
    }
}

/// Datagrams from a socket that is made once, or anew for each of them.
fn udp(way: &Way<'_>, is_new_each: bool, window: Duration) -> Result<f64> {
    let servers = way.bound(UdpSocket::bind)?;
    for server in &servers {
        server.set_read_timeout(Some(PATIENCE))?;
    }
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin(0)?;
            echo_datagrams(&servers).context("serving")
        });
        let figure = way.client.inside(|| {
            pin(0)?;
            let mut number = 0;
            let mut next = || {
                number += 1;
                udp_client(way.asked(number))
            };
            let kept = next()?;
            let figure = repeat(window, || if is_new_each { datagram(&next()?) } else { datagram(&kept) });
            kept.send(&[])?;
            figure
        });
        let served = join(server);
        figure.and_then(|figure| served.map(|()| figure))
    })
}

fn udp_client(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let client = UdpSocket::bind((any, 0))?;
    client.connect(to)?;
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}

/// One that is lost ends the measurement.
fn datagram(client: &UdpSocket) -> io::Result<()> {
    client.send(&[1])?;
    client.recv(&mut [0; 8]).map(drop)
}

/// Says every datagram back; an empty one ends it.
fn echo_datagrams(servers: &[UdpSocket]) -> io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        let server = next_of(servers)?;
        let (length, from) = server.recv_from(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        server.send_to(&buffer[..length], from)?;
    }
}
