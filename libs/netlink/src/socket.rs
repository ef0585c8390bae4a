//! One request, its answers, one timeout; or several changes at once.
//! In: a route netlink message. Out: the answers to exactly that request.
//! Invariant: late answers to an earlier request are thrown away by their sequence number.
//! Never: waits longer than the timeout for one datagram; reads another namespace than the one it was opened in.

use crate::{Error, Reason};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::{io, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a listing is read again when the kernel says that it changed meanwhile.
const DUMP_ATTEMPTS: usize = 5;

/// A route netlink socket of the namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    /// Changes that are collected, while they are.
    batch: Option<Batch>,
}

/// Changes that go to the kernel by one call.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where the last message begins: it asks for an acknowledgement, the others answer only if they fail.
    last: usize,
    /// Sequence number, operation and object of each.
    about: Vec<(u32, &'static str, String)>,
}

/// What a request is about, for its error.
#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    pub operation: &'static str,
    pub object: &'a dyn std::fmt::Display,
}

impl About<'_> {
    pub(crate) fn failed(&self, reason: impl Into<Reason>) -> Error {
        Error::new(self.operation, self.object, reason)
    }
}

impl Socket {
    /// Opens one in the calling thread's network namespace; it stays there whatever the thread does later.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        Self::open_with_timeout(TIMEOUT)
    }

    /// As [`Socket::open`], waiting at most `timeout` for each answer.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open_with_timeout(timeout: Duration) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::new("open netlink socket", "NETLINK_ROUTE", error);
        let mut inner = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(failed)?;
        inner.bind_auto().map_err(failed)?;
        inner.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        set_socket_timeout(&inner, Timeout::Recv, Some(timeout)).map_err(|errno| failed(errno.into()))?;
        Ok(Self { inner, sequence: 0, batch: None })
    }

    /// Does the changes that `changes` asks for by one call of the kernel, in order, and waits for all of them. One that
    /// fails stops none behind it. Only changes may be asked for.
    ///
    /// # Errors
    /// The first that failed, here or in `changes`.
    pub fn together(&mut self, changes: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        self.batch = Some(Batch::default());
        let asked = changes(self);
        let Some(batch) = self.batch.take().filter(|batch| !batch.about.is_empty()) else { return asked };
        asked.and(self.send_all(batch))
    }

    fn send_all(&mut self, mut batch: Batch) -> Result<(), Error> {
        let (first, last) = (batch.about[0].0, self.sequence);
        let flags = u16::from_ne_bytes([batch.bytes[batch.last + 6], batch.bytes[batch.last + 7]]) | NLM_F_ACK;
        batch.bytes[batch.last + 6..batch.last + 8].copy_from_slice(&flags.to_ne_bytes());
        let about = |sequence: u32| {
            let place = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
            let (_, operation, object) = batch.about.get(place).unwrap_or(&batch.about[0]);
            About { operation, object }
        };
        self.inner.send(&batch.bytes, 0).map_err(|error| about(first).failed(error))?;
        let mut outcome = Ok(());
        loop {
            let (bytes, _) = self.inner.recv_from_full().map_err(|error| about(last).failed(timed_out(error)))?;
            let packets = messages(&bytes).map_err(|reason| about(last).failed(reason))?;
            for packet in packets {
                let sequence = packet.header.sequence_number;
                let is_ours = sequence.wrapping_sub(first) <= last.wrapping_sub(first);
                let NetlinkPayload::Error(ack) = packet.payload else { continue };
                if is_ours && ack.code.is_some() {
                    outcome = outcome.and(Err(about(sequence).failed(ack.to_io())));
                }
                if sequence == last {
                    return outcome;
                }
            }
        }
    }

    /// Asks for a change and waits for its acknowledgement.
    pub(crate) fn change(&mut self, about: About<'_>, message: Message, flags: u16) -> Result<(), Error> {
        if self.batch.is_some() {
            let bytes = self.next(message, NLM_F_REQUEST | flags);
            let asked = (self.sequence, about.operation, about.object.to_string());
            if let Some(batch) = &mut self.batch {
                batch.last = batch.bytes.len();
                batch.bytes.extend(bytes);
                batch.about.push(asked);
            }
            return Ok(());
        }
        self.send(about, message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            for (_, payload) in self.receive(about)? {
                if let NetlinkPayload::Error(ack) = payload {
                    return if ack.code.is_none() { Ok(()) } else { Err(about.failed(ack.to_io())) };
                }
            }
        }
    }

    /// Asks for one object.
    pub(crate) fn get(&mut self, about: About<'_>, message: Message) -> Result<Message, Error> {
        self.send(about, message, NLM_F_REQUEST)?;
        loop {
            for (_, payload) in self.receive(about)? {
                match payload {
                    NetlinkPayload::InnerMessage(answer) => return Ok(answer),
                    NetlinkPayload::Error(refusal) => return Err(about.failed(refusal.to_io())),
                    _ => {}
                }
            }
        }
    }

    /// Asks for a listing; reads it again when it changed under the reader.
    pub(crate) fn dump(&mut self, about: About<'_>, message: &Message) -> Result<Vec<Message>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(about, message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if let Some(listing) = self.receive_listing(about)? {
                return Ok(listing);
            }
        }
        Err(about.failed(Reason::Interrupted))
    }

    /// `None`: it changed meanwhile.
    fn receive_listing(&mut self, about: About<'_>) -> Result<Option<Vec<Message>>, Error> {
        let (mut listing, mut whole) = (Vec::new(), true);
        loop {
            for (header, payload) in self.receive(about)? {
                whole &= header.flags & NLM_F_DUMP_INTR == 0;
                match payload {
                    NetlinkPayload::InnerMessage(item) => listing.push(item),
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(whole.then_some(listing)),
                    NetlinkPayload::Done(done) => {
                        return Err(about.failed(io::Error::from_raw_os_error(done.code.saturating_abs())));
                    }
                    NetlinkPayload::Error(refusal) if refusal.code.is_some() => {
                        return Err(about.failed(refusal.to_io()));
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, about: About<'_>, message: Message, flags: u16) -> Result<(), Error> {
        let bytes = self.next(message, flags);
        self.inner.send(&bytes, 0).map(|_| ()).map_err(|error| about.failed(error))
    }

    /// A message under the next sequence number, as it goes to the kernel: its length is a multiple of four.
    fn next(&mut self, message: Message, flags: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// The messages of the next datagram that answer the last request.
    fn receive(&mut self, about: About<'_>) -> Result<Vec<(NetlinkHeader, NetlinkPayload<Message>)>, Error> {
        let (bytes, _) = self.inner.recv_from_full().map_err(|error| about.failed(timed_out(error)))?;
        let packets = messages(&bytes).map_err(|reason| about.failed(reason))?;
        let ours = |packet: &NetlinkMessage<Message>| packet.header.sequence_number == self.sequence;
        Ok(packets.into_iter().filter(ours).map(NetlinkMessage::into_parts).collect())
    }
}

fn timed_out(error: io::Error) -> Reason {
    if error.kind() == io::ErrorKind::WouldBlock { Reason::TimedOut } else { Reason::Kernel(error) }
}

/// The messages of one datagram.
pub(crate) fn messages(bytes: &[u8]) -> Result<Vec<NetlinkMessage<Message>>, Reason> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        let packet =
            NetlinkMessage::<Message>::deserialize(rest).map_err(|error| Reason::Unreadable(error.to_string()))?;
        // Messages are aligned to four bytes; a length of nothing would never end.
        let length = (packet.header.length as usize).next_multiple_of(4).max(4);
        found.push(packet);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_datagram_is_an_error_not_a_panic() {
        assert!(messages(&[]).is_ok_and(|found| found.is_empty()));
        for length in 1..16 {
            assert!(messages(&vec![0xff; length]).is_err(), "{length} bytes");
        }
    }
}
