//! The kit itself: that a probe tells allowed from refused, reset and unreachable.
//! In: two namespaces on a plain veth pair, routed by the kernel. Out: the outcomes the probes must report.
//! Invariant: no agent and no program is involved.
//! Never: trusts a probe that cannot fail.

use anyhow::Result;
use std::{net::IpAddr, process};
use tests::{
    BarePair, NetNs, Outcome, Probe, Servers, Table,
    bare::{LEFT, RIGHT},
    expect::Actor,
    flow::{Connection, Stream},
    frame::FrameSocket,
    netns::STEM,
    probe::probe,
    server::Listen,
};

struct Pair {
    left: NetNs,
    right: NetNs,
    _servers: Servers,
}

/// Two namespaces on a veth pair; the right one serves on 80.
fn pair(name: &str) -> Result<Pair> {
    super::need_root()?;
    let BarePair { left, right } = BarePair::create(&format!("{STEM}{}-{name}", process::id()))?;
    let servers = Servers::start(&right, "right", &[Listen::Tcp(80), Listen::Udp(80), Listen::Sctp(80)])?;
    Ok(Pair { left, right, _servers: servers })
}

fn right() -> [IpAddr; 2] {
    [RIGHT.0.into(), RIGHT.1.into()]
}

#[test]
fn a_probe_is_allowed_where_the_way_is_open() -> Result<()> {
    let pair = pair("open")?;
    for address in right() {
        for what in [Probe::Tcp(80), Probe::Udp(80), Probe::Sctp(80), Probe::Ping] {
            assert_eq!(probe(&pair.left, address, what)?, Outcome::Allowed, "{what} to {address}");
        }
    }
    Ok(())
}

#[test]
fn a_probe_to_a_port_without_server_is_not_allowed() -> Result<()> {
    let pair = pair("closed")?;
    for address in right() {
        assert_eq!(probe(&pair.left, address, Probe::Tcp(81))?, Outcome::Reset);
        assert_eq!(probe(&pair.left, address, Probe::Udp(81))?, Outcome::Reset);
        assert_eq!(probe(&pair.left, address, Probe::Sctp(81))?, Outcome::Refused);
    }
    Ok(())
}

#[test]
fn a_probe_into_silence_is_refused() -> Result<()> {
    let pair = pair("silent")?;
    // The right side hears everything, and its answers vanish.
    pair.right.ip(&["route add blackhole 10.97.0.1/32", "route add blackhole fd00:97::1/128"])?;
    for address in right() {
        for what in [Probe::Tcp(80), Probe::Udp(80), Probe::Sctp(80), Probe::Ping] {
            assert_eq!(probe(&pair.left, address, what)?, Outcome::Refused, "{what} to {address}");
        }
    }
    Ok(())
}

#[test]
fn a_probe_without_a_route_is_unreachable() -> Result<()> {
    let pair = pair("nowhere")?;
    assert_eq!(probe(&pair.left, "203.0.113.1".parse()?, Probe::Tcp(80))?, Outcome::Unreachable);
    Ok(())
}

#[test]
fn np_h1_np_h2_one_wrong_cell_is_a_wrong_table_and_a_cell_that_is_not_asked_is_none() -> Result<()> {
    let pair = pair("table")?;
    let actor = |name: &str, namespace, addresses: (std::net::Ipv4Addr, std::net::Ipv6Addr)| Actor {
        name: name.to_owned(),
        namespace,
        addresses: vec![addresses.0.into(), addresses.1.into()],
    };
    let actors = [actor("left", &pair.left, LEFT), actor("right", &pair.right, RIGHT)];
    let wrong = |table: &str| Table::parse(table)?.differences(&actors, Probe::Tcp(80));
    assert_eq!(wrong("left right\n left - .\n right R -")?, "");
    // In one cell of both families, and in one family alone.
    assert_eq!(wrong("left right\n left - X\n right R -")?.matches("wanted X, saw").count(), 2);
    pair.right.ip(&["route add blackhole 10.97.0.1/32"])?;
    assert_eq!(wrong("left right\n left - .")?.matches("wanted ., saw").count(), 1);
    Ok(())
}

#[test]
fn a_connection_that_is_cut_no_longer_answers() -> Result<()> {
    let pair = pair("cut")?;
    let mut connection = Connection::open(&pair.left, RIGHT.0.into(), 80)?;
    assert!(connection.answers()?);
    pair.right.ip(&["route add blackhole 10.97.0.1/32"])?;
    assert!(!connection.answers()?);
    Ok(())
}

#[test]
fn a_stream_counts_what_did_not_come_back() -> Result<()> {
    let pair = pair("stream")?;
    let stream = Stream::udp(&pair.left, RIGHT.0.into(), 80)?;
    assert_eq!(probe(&pair.left, RIGHT.0.into(), Probe::Tcp(80))?, Outcome::Allowed);
    pair.right.ip(&["route add blackhole 10.97.0.1/32"])?;
    assert_eq!(probe(&pair.left, RIGHT.0.into(), Probe::Tcp(80))?, Outcome::Refused);
    assert_eq!(stream.stop()?.lost(), 1);
    Ok(())
}

#[test]
fn neighbours_are_asked_by_hand() -> Result<()> {
    let pair = pair("frames")?;
    let socket = FrameSocket::open(&pair.left, "eth0")?;
    let other = FrameSocket::open(&pair.right, "eth0")?.mac;
    assert_eq!(socket.arp(LEFT.0, RIGHT.0)?, Some(other));
    assert_eq!(socket.arp(LEFT.0, "10.97.0.77".parse()?)?, None);
    assert_eq!(socket.solicit(LEFT.1, RIGHT.1)?, Some(other));
    assert_eq!(socket.solicit(LEFT.1, "fd00:97::77".parse()?)?, None);
    Ok(())
}
