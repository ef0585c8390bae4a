//! Sockets of a namespace: those that have another end, and their end.
//! In: an IP protocol. Out: each socket's other end and cookie; a socket that is over for its process.
//! Invariant: what is ended is the very socket that was listed: the kernel compares its cookie.
//! Never: reads another namespace than the one it was opened in.

use crate::{Error, Reason};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{SocketAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::{io, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(5);

/// include/uapi/linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// Messages of netlink itself (include/uapi/linux/netlink.h).
const ERROR: u16 = 2;
const DONE: u16 = 3;

const FAMILIES: [u8; 2] = [2, 10];
/// `TCP_*` (include/net/tcp_states.h) in which there is another end that may still send or hear; of UDP the first alone.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

const HEADER: usize = 16;
/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// Where `struct inet_diag_msg` and `struct inet_diag_req_v2` have it.
const ID_IN_ANSWER: usize = 4;

/// A socket that has another end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The other end's address, 16 bytes in network order; of an IPv4 socket as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Its port, network order.
    pub port: [u8; 2],
    /// The socket's own number.
    pub cookie: u64,
    family: u8,
    protocol: u8,
    id: [u8; ID],
}

/// A netlink socket that asks about sockets.
#[derive(Debug)]
pub struct Diag {
    inner: netlink_sys::Socket,
    sequence: u32,
}

impl Diag {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::new("open netlink socket", "NETLINK_SOCK_DIAG", error);
        let mut inner = netlink_sys::Socket::new(NETLINK_SOCK_DIAG).map_err(failed)?;
        inner.bind_auto().map_err(failed)?;
        inner.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        set_socket_timeout(&inner, Timeout::Recv, Some(TIMEOUT)).map_err(|errno| failed(errno.into()))?;
        Ok(Self { inner, sequence: 0 })
    }

    /// The sockets of a protocol (TCP or UDP) that have another end.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn connected(&mut self, protocol: u8) -> Result<Vec<Connected>, Error> {
        let mut found = Vec::new();
        for family in FAMILIES {
            let failed = |reason: Reason| Error::new("list sockets of protocol", protocol, reason);
            self.ask(BY_FAMILY, NLM_F_DUMP, &request(family, protocol, &[0; ID])).map_err(failed)?;
            self.answers(|answer| found.extend(connected(answer, protocol))).map_err(failed)?;
        }
        Ok(found)
    }

    /// Ends a socket: its process hears ECONNABORTED, the other end of a TCP connection a RST. `false`: it is gone by itself.
    ///
    /// # Errors
    /// The kernel does not do that (`CONFIG_INET_DIAG_DESTROY`), or not for us.
    pub fn destroy(&mut self, socket: &Connected) -> Result<bool, Error> {
        let failed = |reason: Reason| Error::new("end socket", socket.cookie, reason);
        self.ask(DESTROY, NLM_F_ACK, &request(socket.family, socket.protocol, &socket.id)).map_err(failed)?;
        crate::error::deleted(self.answers(|_| ()).map_err(failed))
    }

    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<(), Reason> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        self.inner.send(&bytes, 0)?;
        Ok(())
    }

    /// Reads to the end of a listing, or to the acknowledgement.
    fn answers(&mut self, mut visit: impl FnMut(&[u8])) -> Result<(), Reason> {
        loop {
            let (bytes, _) = self.inner.recv_from_full().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => Reason::TimedOut,
                _ => Reason::Kernel(error),
            })?;
            for (kind, sequence, body) in messages(&bytes)? {
                match (kind, sequence == self.sequence) {
                    (_, false) => {}
                    (DONE, _) => return Ok(()),
                    (ERROR, _) => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code).into()) };
                    }
                    _ => visit(body),
                }
            }
        }
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, protocol, 0, 0];
    body.extend(STATES.to_ne_bytes());
    body.extend(id);
    body
}

/// Kind, sequence number and body.
type Message<'a> = (u16, u32, &'a [u8]);

/// The messages of a datagram.
fn messages(mut rest: &[u8]) -> Result<Vec<Message<'_>>, Reason> {
    let torn = || Reason::Unreadable("a message is cut off".to_owned());
    let mut found = Vec::new();
    while !rest.is_empty() {
        let head: &[u8; HEADER] = rest.first_chunk().ok_or_else(torn)?;
        let [a, b, c, d, e, f, _, _, g, h, i, j, ..] = *head;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).map_err(io::Error::other)?;
        let body = rest.get(HEADER..length).ok_or_else(torn)?;
        found.push((u16::from_ne_bytes([e, f]), u32::from_ne_bytes([g, h, i, j]), body));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

/// What an answer says.
fn connected(answer: &[u8], protocol: u8) -> Option<Connected> {
    let family = *answer.first()?;
    let id: [u8; ID] = *answer.get(ID_IN_ANSWER..)?.first_chunk()?;
    let (port, destination, cookie): ([u8; 2], [u8; 16], [u8; 8]) =
        (*id[2..].first_chunk()?, *id[20..].first_chunk()?, *id[40..].first_chunk()?);
    let address = if family == FAMILIES[0] {
        let [a, b, c, d, ..] = destination;
        std::net::Ipv4Addr::new(a, b, c, d).to_ipv6_mapped().octets()
    } else {
        destination
    };
    let [a, b, c, d, e, f, g, h] = cookie;
    let [low, high] = [[a, b, c, d], [e, f, g, h]].map(|half| u64::from(u32::from_ne_bytes(half)));
    Some(Connected { address, port, cookie: high << 32 | low, family, protocol, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};

    #[test]
    fn a_torn_datagram_is_an_error_not_a_panic() {
        assert!(messages(&[]).is_ok_and(|found| found.is_empty()));
        for length in 1..20 {
            assert!(messages(&vec![0xff; length]).is_err(), "{length} bytes");
            assert!(connected(&vec![2; length], 6).is_none());
        }
        assert!(messages(&[0; 16]).is_err(), "a message of no length");
    }

    #[test]
    fn sockets_are_listed_by_their_other_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let tcp = listener.local_addr().expect("an address").port();
        let _four = TcpStream::connect(("127.0.0.1", tcp)).expect("it listens");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        udp.connect(("127.0.0.1", tcp)).expect("connected");
        let mut diag = Diag::open().expect("netlink answers");
        let loopback = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        for protocol in [6, 17] {
            let found = diag.connected(protocol).expect("the kernel lists them");
            let ours: Vec<_> = found.iter().filter(|socket| socket.port == tcp.to_be_bytes()).collect();
            assert!(!ours.is_empty() && ours.iter().all(|socket| Ipv6Addr::from(socket.address) == loopback));
        }
    }
}
