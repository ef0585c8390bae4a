//! The way to an address as the sender's own stack knows it: its MTU, and what routers on it complained about.
//! In: a namespace and an address. Out: packets that may not be cut, and the ICMP errors that came back for them.
//! Invariant: what is told is read from the socket's error queue, so it passed every check of the kernel there.
//! Never: waits without a bound.

use crate::{NetNs, wait::PATIENCE};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// What a packet is, which is sent to find out about its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A datagram.
    Udp,
    /// An echo request, as ping sends it.
    Ping,
    /// The SYN of a connection.
    Tcp,
}

/// An ICMP error, as the socket was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Who complains.
    pub from: IpAddr,
    /// ICMP or ICMPv6 type and code.
    pub about: (u8, u8),
    /// The MTU, if it is about one.
    pub mtu: u32,
}

/// A socket that is connected to an address, asks for errors and lets nobody cut its packets.
#[derive(Debug)]
pub struct Way {
    fd: OwnedFd,
    to: SocketAddr,
    kind: Kind,
}

/// One socket option of both families: IPv4's level and name, then IPv6's.
type Choice = [(i32, i32); 2];

const TTL: Choice = [(libc::IPPROTO_IP, libc::IP_TTL), (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)];
const ERRORS: Choice = [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
const DISCOVER: Choice = [(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER), (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)];
const MTU: Choice = [(libc::IPPROTO_IP, libc::IP_MTU), (libc::IPPROTO_IPV6, libc::IPV6_MTU)];

impl Way {
    /// From a namespace to an address and port.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open(from: &NetNs, kind: Kind, to: SocketAddr) -> Result<Self> {
        from.inside(|| {
            let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let (sort, protocol) = match kind {
                Kind::Udp => (libc::SOCK_DGRAM, 0),
                Kind::Tcp => (libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0),
                Kind::Ping => (libc::SOCK_RAW, if to.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 }),
            };
            // SAFETY: a system call without pointers.
            let raw = unsafe { libc::socket(family, sort | libc::SOCK_CLOEXEC, protocol) };
            ensure!(raw >= 0, "opening a socket: {}", io::Error::last_os_error());
            // SAFETY: the kernel has just given this descriptor to us, and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(raw) };
            let way = Self { fd, to, kind };
            way.set(ERRORS, 1)?;
            // IP_PMTUDISC_DO and IPV6_PMTUDISC_DO have one value.
            way.set(DISCOVER, libc::IP_PMTUDISC_DO)?;
            if kind != Kind::Tcp {
                way.connect()?;
            }
            Ok(way)
        })
    }

    fn pick(&self, choice: Choice) -> (i32, i32) {
        choice[usize::from(self.to.is_ipv6())]
    }

    fn set(&self, choice: Choice, value: i32) -> Result<()> {
        let (level, name) = self.pick(choice);
        // SAFETY: the option's value is an int, which lives over the call.
        let done = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
        ensure!(done == 0, "setting option {name}: {}", io::Error::last_os_error());
        Ok(())
    }

    fn connect(&self) -> Result<()> {
        // SAFETY: all-zero is a valid value of this plain C structure, which is long enough for either family.
        let mut address: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let length = match self.to {
            SocketAddr::V4(to) => {
                // SAFETY: storage is aligned for every address and longer than this one.
                let v4 = unsafe { &mut *(&raw mut address).cast::<libc::sockaddr_in>() };
                v4.sin_family = libc::AF_INET as u16;
                v4.sin_port = to.port().to_be();
                v4.sin_addr.s_addr = u32::from(*to.ip()).to_be();
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(to) => {
                // SAFETY: as above.
                let v6 = unsafe { &mut *(&raw mut address).cast::<libc::sockaddr_in6>() };
                v6.sin6_family = libc::AF_INET6 as u16;
                v6.sin6_port = to.port().to_be();
                v6.sin6_addr.s6_addr = to.ip().octets();
                size_of::<libc::sockaddr_in6>()
            }
        };
        // SAFETY: the address lives over the call and is `length` bytes long.
        let done = unsafe { libc::connect(self.fd.as_raw_fd(), (&raw const address).cast(), length as u32) };
        let error = io::Error::last_os_error();
        if done == 0 || error.raw_os_error() == Some(libc::EINPROGRESS) { Ok(()) } else { Err(error.into()) }
    }

    /// How many hops the next packets have.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hops(&self, hops: u8) -> Result<()> {
        self.set(TTL, hops.into())
    }

    /// Sends a packet of `length` bytes, IP header included; of TCP a SYN. An error that an earlier one left is no failure.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send(&self, length: usize) -> Result<()> {
        if self.kind == Kind::Tcp {
            return self.connect();
        }
        let headers = if self.to.is_ipv4() { 20 } else { 40 } + if self.kind == Kind::Udp { 8 } else { 0 };
        let mut data = vec![0; length - headers];
        if self.kind == Kind::Ping {
            data[..8].copy_from_slice(&echo_request(self.to.is_ipv4()));
        }
        // SAFETY: the data live over the call and are as long as said.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), data.as_ptr().cast(), data.len(), 0) };
        ensure!(sent >= 0, "sending {length} bytes to {}: {}", self.to, io::Error::last_os_error());
        Ok(())
    }

    /// The MTU of the way as the sender's stack has learned it.
    ///
    /// # Errors
    /// The kernel knows none.
    pub fn mtu(&self) -> Result<u32> {
        let (level, name) = self.pick(MTU);
        let (mut value, mut length) = (0i32, 4u32);
        // SAFETY: value and length live over the call, and the value is as long as the length says.
        let done =
            unsafe { libc::getsockopt(self.fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
        ensure!(done == 0, "asking for the MTU to {}: {}", self.to, io::Error::last_os_error());
        Ok(value.unsigned_abs())
    }

    /// The next ICMP error that came back.
    ///
    /// # Errors
    /// None came in time.
    pub fn told(&self) -> Result<Told> {
        let mut ready = libc::pollfd { fd: self.fd.as_raw_fd(), events: 0, revents: 0 };
        let patience = i32::try_from(PATIENCE.as_millis()).context("a wait is short")?;
        // SAFETY: one descriptor that is open; a full error queue shows as POLLERR, which needs no asking.
        let found = unsafe { libc::poll(&raw mut ready, 1, patience) };
        ensure!(found == 1, "no error about {:?} to {} came back", self.kind, self.to);
        self.queued()
    }

    fn queued(&self) -> Result<Told> {
        let (mut data, mut control) = ([0u8; 2048], [0u64; 64]);
        let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
        // SAFETY: every buffer lives over the call and is as long as said.
        let got = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE) };
        ensure!(got >= 0, "reading the error queue: {}", io::Error::last_os_error());
        // SAFETY: the kernel filled the control buffer, which outlives the pointers; an error is followed by the
        // address of who complains (ip(7), `SO_EE_OFFENDER`).
        unsafe {
            let mut head = libc::CMSG_FIRSTHDR(&raw const message);
            while !head.is_null() {
                let errors = [libc::IP_RECVERR, libc::IPV6_RECVERR];
                if errors.contains(&(*head).cmsg_type) {
                    let error = libc::CMSG_DATA(head).cast::<libc::sock_extended_err>();
                    return Ok(told(&error.read_unaligned(), error.add(1).cast()));
                }
                head = libc::CMSG_NXTHDR(&raw const message, head);
            }
        }
        bail!("the error queue holds something else")
    }
}

/// # Safety
/// Behind `offender` lies an address of the family it names.
unsafe fn told(error: &libc::sock_extended_err, offender: *const libc::sockaddr) -> Told {
    // SAFETY: the caller's promise.
    let from = unsafe {
        if i32::from((*offender).sa_family) == libc::AF_INET {
            let v4 = offender.cast::<libc::sockaddr_in>().read_unaligned();
            IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)))
        } else {
            let v6 = offender.cast::<libc::sockaddr_in6>().read_unaligned();
            IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr))
        }
    };
    Told { from, about: (error.ee_type, error.ee_code), mtu: error.ee_info }
}

/// An echo request without data; the kernel writes the checksum of ICMPv6 itself.
fn echo_request(v4: bool) -> [u8; 8] {
    const ID: u8 = 0x77;
    let sum = !(u16::from_be_bytes([8, 0]) + u16::from(ID) + 1);
    let [high, low] = sum.to_be_bytes();
    if v4 { [8, 0, high, low, 0, ID, 0, 1] } else { [128, 0, 0, 0, 0, ID, 0, 1] }
}
