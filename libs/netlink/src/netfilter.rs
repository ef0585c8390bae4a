//! Netfilter: is there a table or chain of this name?
//! In: a family, names. Out: yes or no, from the kernel's own lists (nf_tables, which today's iptables fills too).
//! Invariant: one object is asked for by its name; how many others there are costs nothing.
//! Never: changes a rule; knows of the tables of the older iptables, which the kernel keeps elsewhere.

use crate::{Error, Reason};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::{io, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Subsystem of nf_tables, and what it is asked (linux/netfilter/nfnetlink.h, nf_tables.h).
const NFTABLES: u16 = 10 << 8;
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
/// Attributes: the name of a table; of a chain its table, its name.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;

/// Family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4 = 2,
    /// IPv6.
    V6 = 10,
}

/// Whether there is a table of this name, in the calling thread's network namespace.
///
/// # Errors
/// The kernel does not say.
pub fn has_table(family: Family, table: &str) -> Result<bool, Error> {
    ask(GET_TABLE, family, &[(TABLE_NAME, table)], table)
}

/// Whether there is a chain of this name in a table.
///
/// # Errors
/// The kernel does not say.
pub fn has_chain(family: Family, table: &str, chain: &str) -> Result<bool, Error> {
    ask(GET_CHAIN, family, &[(CHAIN_TABLE, table), (CHAIN_NAME, chain)], chain)
}

fn ask(what: u16, family: Family, attributes: &[(u16, &str)], object: &str) -> Result<bool, Error> {
    let failed = |error: io::Error| Error::new("ask nf_tables for", object, error);
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT)).map_err(|errno| failed(errno.into()))?;
    socket.send(&request(what, family, attributes), 0).map_err(failed)?;
    let (answer, _) = socket.recv_from_full().map_err(failed)?;
    let unreadable = || Error::new("ask nf_tables for", object, Reason::Unreadable("it is too short".to_owned()));
    match meaning(&answer).ok_or_else(unreadable)? {
        Ok(()) => Ok(true),
        Err(errno) => {
            let error = failed(io::Error::from_raw_os_error(errno));
            // A kernel without nf_tables has none of its tables.
            let has_none = error.errno() == Some(rustix::io::Errno::INVAL);
            if error.is_absent() || has_none { Ok(false) } else { Err(error) }
        }
    }
}

fn request(what: u16, family: Family, attributes: &[(u16, &str)]) -> Vec<u8> {
    // The generic header: family, version, resource.
    let mut body = vec![family as u8, 0, 0, 0];
    for (kind, text) in attributes {
        let length = u16::try_from(4 + text.len() + 1).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(text.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend((NFTABLES | what).to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The object, or an errno; `None`: neither.
fn meaning(answer: &[u8]) -> Option<Result<(), i32>> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != NLMSG_ERROR {
        return Some(Ok(()));
    }
    let code = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
    Some(if code == 0 { Ok(()) } else { Err(code.saturating_neg()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_aligned_and_says_its_own_length() {
        let message = request(GET_CHAIN, Family::V6, &[(CHAIN_TABLE, "nat"), (CHAIN_NAME, "KUBE-SERVICES")]);
        assert_eq!(message.len() % 4, 0);
        assert_eq!(message[..4], u32::try_from(message.len()).expect("short").to_ne_bytes());
        assert_eq!((message[16], &message[24..28]), (10, &b"nat\0"[..]));
    }

    #[test]
    fn an_answer_is_the_object_an_errno_or_torn() {
        let error = |code: i32| [&[0; 4][..], &NLMSG_ERROR.to_ne_bytes(), &[0; 10], &code.to_ne_bytes()].concat();
        assert_eq!(meaning(&error(-2)), Some(Err(2)));
        assert_eq!(meaning(&error(0)), Some(Ok(())));
        assert_eq!(meaning(&[0, 0, 0, 0, 3, 10]), Some(Ok(())));
        assert_eq!(meaning(&error(-2)[..18]), None);
        assert_eq!(meaning(&[]), None);
    }
}
