//! Changes: how long from the write of a slice to the first datagram that goes by it.
//! In: places. Out: p50, p99 and the most at each of them.
//! Invariant: one flow is watched all the time, of which no datagram is lost; places take turns; each change is made at rest.
//! Never: asks the agent; only packets.

use super::place::Place;
use crate::{
    door::REST,
    figures::{Timed, Waits},
    manifests::service_address,
    progress,
};
use ::tests::traffic::{PORT, first_of};
use anyhow::{Context as _, Result, ensure};
use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

/// Between two datagrams.
const PAUSE: Duration = Duration::from_micros(50);
/// A datagram that did not come by then does not come.
const SILENCE: Duration = Duration::from_millis(60);
/// A change that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Puts one server behind the service in the place of another, so many times at every place, in turns.
pub fn timed(places: &[&Place], times: u32) -> Result<Vec<Timed>> {
    let mut watched = Vec::new();
    for place in places {
        watched.push((Flow::open(place)?, Vec::new()));
    }
    for time in 0..times {
        progress(&format!("changes {} of {times}", time + 1));
        for (place, (flow, took)) in places.iter().zip(&mut watched) {
            let next = (time as usize + 1) % place.servers.len();
            took.push(flow.moved(place, next)?);
            thread::sleep(REST);
        }
    }
    let mut timed = Vec::new();
    for (place, (_, took)) in places.iter().zip(&watched) {
        place.stand_behind(&place.addresses())?;
        timed.push(Timed { place: place.name(), waits: Waits::of(took) });
    }
    Ok(timed)
}

/// Datagrams from one socket to the service, and where they come.
struct Flow {
    client: UdpSocket,
    servers: Vec<UdpSocket>,
    sent: u64,
}

impl Flow {
    /// To the first server.
    fn open(place: &Place) -> Result<Self> {
        let bind = |server: &::tests::Pod| {
            server.namespace().inside(|| UdpSocket::bind((server.address(), PORT)).context("binding a server"))
        };
        let servers = place.servers.iter().map(bind).collect::<Result<_>>()?;
        let client = place.client.namespace().inside(|| {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).context("binding")?;
            socket.connect(SocketAddr::new(service_address(0), PORT)).context("connecting")?;
            Ok(socket)
        })?;
        let mut flow = Self { client, servers, sent: 0 };
        flow.moved(place, 0)?;
        thread::sleep(REST);
        Ok(flow)
    }

    /// Leaves only this server behind the service, and sends until a datagram comes to it.
    fn moved(&mut self, place: &Place, to: usize) -> Result<Duration> {
        let begun = Instant::now();
        place.stand_behind(&[place.servers[to].address()])?;
        loop {
            let sent = Instant::now();
            if self.next()? == to {
                return Ok(sent - begun);
            }
            ensure!(begun.elapsed() < PATIENCE, "not there after {PATIENCE:?}");
            thread::sleep(PAUSE);
        }
    }

    /// Sends one more; which server it came to.
    fn next(&mut self) -> Result<usize> {
        self.sent += 1;
        self.client.send(&self.sent.to_be_bytes()).context("sending a datagram")?;
        let came = first_of(&self.servers, SILENCE)?.with_context(|| format!("datagram {} was lost", self.sent))?;
        let mut buffer = [0; 8];
        self.servers[came].recv(&mut buffer).context("receiving a datagram")?;
        ensure!(u64::from_be_bytes(buffer) == self.sent, "another datagram came");
        Ok(came)
    }
}
