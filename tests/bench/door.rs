//! A door: when a change lets a client in, or keeps it out.
//! In: two namespaces, an address. Out: how long after the change the first packet met it.
//! Invariant: the clock runs from just before the change is written to just before the first packet that met it was sent.
//! Never: asks the agent; only packets.

use ::tests::{NetNs, traffic::PORT};
use anyhow::{Context as _, Result, ensure};
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

/// After a change: what a commit leaves is swept by then.
pub const REST: Duration = Duration::from_millis(150);
/// Between two packets.
const PAUSE: Duration = Duration::from_micros(50);
/// Between two looks whether connections are let in.
const LOOK: Duration = Duration::from_millis(1);
/// A datagram that did not come by then does not come.
const SILENCE: Duration = Duration::from_millis(60);
/// A change that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who knocks, and where.
#[derive(Clone, Copy)]
pub struct Door<'a> {
    /// Where packets come from.
    pub from: &'a NetNs,
    /// Their source; `None`: as the namespace chooses.
    pub source: Option<IpAddr>,
    /// Where they go.
    pub to: &'a NetNs,
    /// The address there.
    pub address: IpAddr,
}

impl Door<'_> {
    /// Opens one flow of datagrams, makes the change, and waits until the flow is refused.
    pub fn until_shut(&self, change: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let flow = self.flow()?;
        let begun = Instant::now();
        change()?;
        for number in 1u64.. {
            let sent = Instant::now();
            flow.client.send(&number.to_be_bytes()).context("sending a datagram")?;
            if !flow.came(number)? {
                return Ok(sent - begun);
            }
            ensure!(begun.elapsed() < PATIENCE, "not refused after {PATIENCE:?}");
            thread::sleep(PAUSE);
        }
        unreachable!("numbers do not end")
    }

    /// Waits until a flow of datagrams is let in: each try is a flow of its own, for a refused one stays refused.
    pub fn until_open(&self) -> Result<Duration> {
        let begun = Instant::now();
        while self.flow().is_err() {
            ensure!(begun.elapsed() < PATIENCE, "not let in after {PATIENCE:?}");
        }
        Ok(begun.elapsed())
    }

    /// Waits until new connections are let in, or no longer.
    pub fn until_connects(&self, open: bool, begun: Instant) -> Result<Duration> {
        let to = SocketAddr::new(self.address, PORT);
        let listener = self.to.inside(|| TcpListener::bind(to).context("listening"))?;
        self.from.inside(|| {
            loop {
                let came = TcpStream::connect_timeout(&to, Duration::from_millis(4)).is_ok();
                if came {
                    drop(listener.accept());
                }
                if came == open {
                    return Ok(begun.elapsed());
                }
                ensure!(begun.elapsed() < PATIENCE, "not so after {PATIENCE:?}");
                thread::sleep(LOOK);
            }
        })
    }

    /// A flow whose first datagram came.
    fn flow(&self) -> Result<Flow> {
        let to = SocketAddr::new(self.address, PORT);
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let server = self.to.inside(|| UdpSocket::bind(to).context("binding"))?;
        let client = self.from.inside(|| {
            let socket = UdpSocket::bind((self.source.unwrap_or(any), 0)).context("binding")?;
            socket.connect(to).context("connecting")?;
            Ok(socket)
        })?;
        let flow = Flow { client, server };
        flow.server.set_read_timeout(Some(LOOK))?;
        flow.client.send(&0u64.to_be_bytes()).context("sending a datagram")?;
        ensure!(flow.came(0)?, "the door is shut");
        flow.server.set_read_timeout(Some(SILENCE))?;
        Ok(flow)
    }
}

struct Flow {
    client: UdpSocket,
    server: UdpSocket,
}

impl Flow {
    fn came(&self, number: u64) -> Result<bool> {
        let mut buffer = [0; 8];
        loop {
            match self.server.recv(&mut buffer) {
                Ok(8) if u64::from_be_bytes(buffer) == number => return Ok(true),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
                Err(error) => return Err(error).context("receiving a datagram"),
            }
        }
    }
}
