//! Traffic to measure: round trips, new connections and bulk, between two namespaces, by plain sockets.
//! In: a way between two namespaces and a window of time. Out: exchanges, or bytes, a second.
//! Invariant: latency rows run both ends on one core, so that no wake-up crosses cores; bulk gives each end its own.
//! Never: needs a program that is not here; judges a figure.

use crate::NetNs;
use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use std::{
    fmt,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
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
    /// Bytes over one TCP connection.
    Bulk,
}

impl Row {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::RoundTrips, Self::NewConnections, Self::UdpRoundTrips, Self::Bulk];
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RoundTrips => "round trips",
            Self::NewConnections => "new connections",
            Self::UdpRoundTrips => "UDP round trips",
            Self::Bulk => "bulk",
        })
    }
}

/// From where to where.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Where the client runs.
    pub client: &'a NetNs,
    /// Where the server runs.
    pub server: &'a NetNs,
    /// The server's address.
    pub address: IpAddr,
}

/// Exchanges (bulk: bytes) a second over `window`.
///
/// # Errors
/// A packet did not come through in time.
pub fn measure(way: Way<'_>, row: Row, window: Duration) -> Result<f64> {
    let to = SocketAddr::new(way.address, PORT);
    match row {
        Row::RoundTrips => tcp(way, to, 0, echo_bytes, |stream| round_trips(stream, window)),
        Row::Bulk => tcp(way, to, 1, swallow, |stream| bulk(stream, window)),
        Row::NewConnections => new_connections(way, to, window),
        Row::UdpRoundTrips => udp_round_trips(way, to, window),
    }
    .with_context(|| format!("measuring {row} to {to}"))
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
    way: Way<'_>,
    to: SocketAddr,
    server_core: usize,
    serve: fn(TcpStream) -> io::Result<()>,
    drive: impl FnOnce(TcpStream) -> Result<f64> + Send,
) -> Result<f64> {
    let listener = way.server.inside(|| TcpListener::bind(to).context("listening"))?;
    let stream = way.client.inside(|| TcpStream::connect_timeout(&to, PATIENCE).context("connecting"))?;
    let (accepted, _) = listener.accept().context("accepting")?;
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

fn new_connections(way: Way<'_>, to: SocketAddr, window: Duration) -> Result<f64> {
    let listener = way.server.inside(|| TcpListener::bind(to).context("listening"))?;
    // Every port, so that a window never meets one of its own in TIME_WAIT.
    way.client.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin(0)?;
            serve_one_by_one(&listener).context("serving")
        });
        let figure = way.client.inside(|| {
            pin(0)?;
            let figure = repeat(window, || one_connection(to, 1));
            one_connection(to, 0)?;
            figure
        });
        join(server)?;
        figure
    })
}

/// Answers one byte a connection and closes first; a zero ends it.
fn serve_one_by_one(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
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

fn udp_round_trips(way: Way<'_>, to: SocketAddr, window: Duration) -> Result<f64> {
    let any = SocketAddr::new(if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() }, 0);
    let server = way.server.inside(|| UdpSocket::bind(to).context("binding"))?;
    let client = way.client.inside(|| {
        let socket = UdpSocket::bind(any).context("binding")?;
        socket.connect(to).context("connecting")?;
        Ok(socket)
    })?;
    for end in [&server, &client] {
        end.set_read_timeout(Some(PATIENCE))?;
    }
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            pin(0)?;
            echo_datagrams(&server).context("serving")
        });
        let client = scope.spawn(move || {
            pin(0)?;
            let mut lost = 0u32;
            let figure = repeat(window, || datagram(&client, &mut lost));
            client.send(&[]).context("ending the server")?;
            ensure!(lost == 0, "{lost} datagrams were lost");
            figure
        });
        let figure = join(client);
        join(server)?;
        figure
    })
}

fn datagram(client: &UdpSocket, lost: &mut u32) -> io::Result<()> {
    client.send(&[1])?;
    match client.recv(&mut [0; 8]) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => *lost += 1,
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    Ok(())
}

/// Says every datagram back; an empty one ends it.
fn echo_datagrams(server: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        let (length, from) = server.recv_from(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        server.send_to(&buffer[..length], from)?;
    }
}
