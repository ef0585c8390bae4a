//! Who listens on this node: whether a process has a node port that a service has.
//! In: /proc, of this agent's own network namespace. Out: who listens at which of the ports that are asked for.
//! Invariant: of TCP only who listens is read, which the kernel says first: not every connection of the node.
//! Never: opens a port to find out.

use model::Protocol;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A listening TCP socket, as /proc says its state.
const LISTENS: &str = "0A";
/// A UDP socket that hears everybody.
const UNCONNECTED: &str = "07";

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Where it listens.
    pub at: SocketAddr,
    /// By which the kernel tells it from others.
    inode: u64,
}

impl Listener {
    /// Whether it would hear what is sent to this address.
    pub fn hears(&self, address: IpAddr) -> bool {
        match self.at.ip() {
            // One of IPv6 hears both, unless it was told not to, which nobody can see.
            IpAddr::V6(all) if all.is_unspecified() => true,
            IpAddr::V4(all) if all.is_unspecified() => address.is_ipv4(),
            own => own.to_canonical() == address,
        }
    }
}

/// Who listens at these ports.
pub fn at(ports: &BTreeSet<(Protocol, u16)>) -> BTreeMap<(Protocol, u16), Vec<Listener>> {
    let mut found: BTreeMap<(Protocol, u16), Vec<Listener>> = BTreeMap::new();
    for (protocol, tables) in [(Protocol::TCP, ["tcp", "tcp6"]), (Protocol::UDP, ["udp", "udp6"])] {
        if !ports.iter().any(|(own, _)| *own == protocol) {
            continue;
        }
        for table in tables {
            let Ok(file) = fs::File::open(format!("/proc/thread-self/net/{table}")) else { continue };
            let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1);
            for listener in listeners(lines, protocol) {
                let port = (protocol, listener.at.port());
                if ports.contains(&port) {
                    found.entry(port).or_default().push(listener);
                }
            }
        }
    }
    found
}

fn listeners(lines: impl Iterator<Item = String>, protocol: Protocol) -> impl Iterator<Item = Listener> {
    let is_tcp = protocol == Protocol::TCP;
    let sockets = lines.filter_map(|line| socket(&line));
    let sockets = sockets.take_while(move |(state, _)| !is_tcp || state == LISTENS);
    sockets.filter(move |(state, _)| is_tcp || state == UNCONNECTED).map(|(_, listener)| listener)
}

/// State and socket of a line: `0: 0100007F:1F90 00000000:0000 0A ... UID TIMEOUT INODE ...`.
fn socket(line: &str) -> Option<(String, Listener)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (word, text) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(address.as_bytes().as_chunks::<8>().0) {
                let text = std::str::from_utf8(text).ok()?;
                *word = u32::from_str_radix(text, 16).ok()?.to_ne_bytes();
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    let at = SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?);
    Some(((*fields.get(3)?).to_owned(), Listener { at, inode: fields.get(9)?.parse().ok()? }))
}

/// Which processes have these sockets: `NAME (pid N)`. Goes through all processes.
pub fn processes(of: &BTreeSet<Listener>) -> BTreeMap<Listener, String> {
    let mut found = BTreeMap::new();
    if of.is_empty() {
        return found;
    }
    let wanted: BTreeMap<String, Listener> =
        of.iter().map(|listener| (format!("socket:[{}]", listener.inode), *listener)).collect();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        for entry in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if let Some(listener) = target.to_str().and_then(|target| wanted.get(target)) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                found.entry(*listener).or_insert_with(|| format!("{} (pid {pid})", name.trim()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn who_listens_is_found_with_its_process_and_who_is_connected_is_not() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let udp = UdpSocket::bind("[::1]:0").expect("a free port");
        let (tcp_at, udp_at) = (tcp.local_addr().expect("bound"), udp.local_addr().expect("bound"));
        let client = TcpStream::connect(tcp_at).expect("connected");
        let clients = client.local_addr().expect("bound").port();
        let asked = [(Protocol::TCP, tcp_at.port()), (Protocol::UDP, udp_at.port()), (Protocol::TCP, clients)];
        let found = at(&asked.into());
        let places: Vec<_> = found.iter().map(|(port, all)| (*port, all[0].at)).collect();
        assert_eq!(places, [(asked[0], tcp_at), (asked[1], udp_at)]);
        let all: BTreeSet<_> = found.values().flatten().copied().collect();
        let named = processes(&all);
        let own = format!("(pid {})", std::process::id());
        assert!(named.len() == 2 && named.values().all(|name| name.ends_with(&own)), "{named:?}");
    }

    #[test]
    fn a_socket_of_all_addresses_hears_each_of_its_family() {
        let listener = |at: &str| Listener { at: at.parse().expect("an address"), inode: 1 };
        let (v4, v6): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into());
        for (at, hears) in [
            ("0.0.0.0:80", [true, false]),
            ("[::]:80", [true, true]),
            ("10.0.0.1:80", [true, false]),
            ("10.0.0.2:80", [false, false]),
            ("[fd00::1]:80", [false, true]),
        ] {
            assert_eq!([v4, v6].map(|address| listener(at).hears(address)), hears, "{at}");
        }
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0";
        let (state, found) = socket(line).expect("a socket");
        assert_eq!(
            (state.as_str(), found),
            (LISTENS, Listener { at: "127.0.0.1:8080".parse().expect("an address"), inode: 4711 })
        );
    }
}
