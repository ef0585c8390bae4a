//! A steady stream of numbered datagrams that nobody answers: what arrives is counted, and every number is looked for.
//! In: two namespaces, an address, a port and a pause. Out: how many were sent, how many arrived, which are missing.
//! Invariant: the sender never waits for an answer and never stops at a loss; a number counts once.
//! Never: takes a datagram of another stream for its own.

use crate::NetNs;
use anyhow::{Context as _, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long the receiver goes on listening after the last datagram was sent.
const DRAIN: Duration = Duration::from_millis(200);
/// Room for a receiver that does not run for a while.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What a stream came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Sent.
    pub sent: u64,
    /// Numbers that arrived.
    pub arrived: u64,
    /// The first numbers that did not.
    pub missing: Vec<u64>,
}

/// A running stream.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<BTreeSet<u64>>>,
}

impl Steady {
    /// One datagram each `pause`, from as many source ports in turn as `flows` says.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(from: &NetNs, to: &NetNs, target: SocketAddr, flows: usize, pause: Duration) -> Result<Self> {
        let listener = to.inside(|| UdpSocket::bind(target).with_context(|| format!("binding {target}")))?;
        set_socket_recv_buffer_size_force(&listener, RECEIVE_BUFFER).context("a socket option")?;
        listener.set_read_timeout(Some(DRAIN)).context("a socket option")?;
        let sockets = from.inside(|| (0..flows).map(|_| connect(target)).collect::<Result<Vec<_>>>())?;
        let (stop, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, counted) = (Arc::clone(&stop), Arc::clone(&arrived));
        let receiver = thread::spawn(move || receive(&listener, &until, &counted));
        let until = Arc::clone(&stop);
        let sender = thread::spawn(move || send(&sockets, pause, &until));
        Ok(Self { stop, arrived, sender, receiver })
    }

    /// Datagrams that arrived so far.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    /// A socket failed on the way.
    pub fn stop(self) -> Result<Account> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let numbers = self.receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let missing = (1..=sent).filter(|number| !numbers.contains(number)).take(8).collect();
        Ok(Account { sent, arrived: numbers.len() as u64, missing })
    }
}

fn connect(target: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).context("binding a UDP socket")?;
    socket.connect(target).context("connecting a UDP socket")?;
    Ok(socket)
}

fn send(sockets: &[UdpSocket], pause: Duration, stop: &AtomicBool) -> Result<u64> {
    let mut sent = 0u64;
    for socket in sockets.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sent += 1;
        match socket.send(&sent.to_be_bytes()) {
            // Somebody said no: it goes on asking.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("sending a numbered datagram"),
        }
        thread::sleep(pause);
    }
    Ok(sent)
}

/// Listens until nothing came for a while after the end.
fn receive(listener: &UdpSocket, stop: &AtomicBool, counted: &AtomicU64) -> Result<BTreeSet<u64>> {
    let (mut numbers, mut buffer) = (BTreeSet::new(), [0; 64]);
    loop {
        match listener.recv(&mut buffer) {
            Ok(8) => {
                counted.fetch_add(1, Ordering::Relaxed);
                numbers.extend(buffer[..8].try_into().ok().map(u64::from_be_bytes));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(numbers);
                }
            }
            Err(error) => return Err(error).context("receiving numbered datagrams"),
        }
    }
}
