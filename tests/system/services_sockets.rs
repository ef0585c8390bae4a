//! Services for the node's own sockets: every call by which a program asks for one, and hears who it is.
//! In: Service and EndpointSlice manifests, programs in a cgroup of the test's own. Out: what these programs meet.
//! Invariant: they know the service's address alone, and hear of no other.
//! Never: waits for a change by time.

use crate::{
    services::{LEAVING, READY, service, slices, vips},
    story::{Story, story_on},
};
use anyhow::{Context as _, Result, ensure};
use netlink::namespace;
use serde_json::Value;
use std::{
    fs::File,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};
use tests::{
    NetNs, NodeSpec, Outcome,
    Probe::Tcp,
    cgroup::Cgroup,
    netns,
    probe::{self, read_line},
    wait,
};

/// The conditions of an endpoint, and where it is.
const ELSEWHERE: &str = "ready: true }, nodeName: elsewhere, hints: { forZones: []";

/// A story on a node with programs at a cgroup of the test's own.
fn sockets(pods: &[&str], test: impl FnOnce(&mut Story, &Cgroup) -> Result<()>) -> Result<()> {
    let cgroup = Cgroup::create()?;
    story_on(NodeSpec::new(1).cgroup(Some(cgroup.path())), pods, |s| test(s, &cgroup))
}

/// The service's addresses, and its IPv4 one as IPv6 sockets write it.
fn all_vips() -> [IpAddr; 3] {
    let [v4, v6] = vips();
    let IpAddr::V4(plain) = v4 else { unreachable!("the first is of IPv4") };
    [v4, v6, plain.to_ipv6_mapped().into()]
}

fn by_tcp(to: SocketAddr) -> Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&to, wait::PATIENCE).with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    let who = read_line(&mut stream)?;
    stream.write_all(b"word\n")?;
    ensure!(read_line(&mut stream)? == "word", "another word came back");
    Ok((who, stream.peer_addr()?))
}

fn socket_for(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = probe::socket(to)?;
    socket.set_read_timeout(Some(wait::PATIENCE))?;
    Ok(socket)
}

/// Who answers a datagram, and by which address.
fn heard(socket: &UdpSocket) -> Result<(String, SocketAddr)> {
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer).context("no answer")?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

/// In the node's namespace and the cgroup.
fn there<T: Send>(s: &Story, cgroup: &Cgroup, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    cgroup.inside(|| s.node.namespace().inside(work))
}

/// Waits until the node's sockets meet this at the shop.
fn expect_there(s: &Story, cgroup: &Cgroup, wanted: Outcome) -> Result<()> {
    wait::wait_until(&format!("the node meets {wanted}"), wait::PATIENCE, || {
        let met = vips().map(|vip| cgroup.inside(|| tests::probe::probe(s.node.namespace(), vip, Tcp(443))));
        Ok(met.into_iter().all(|met| met.is_ok_and(|met| met == wanted)))
    })
}

#[test]
fn every_call_of_the_nodes_sockets_leads_to_a_backend_and_names_the_service() -> Result<()> {
    sockets(&["x/a", "x/b"], |s, cgroup| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        expect_there(s, cgroup, Outcome::Allowed)?;
        for vip in all_vips() {
            let (tcp, udp) = (SocketAddr::new(vip, 443), SocketAddr::new(vip, 53));
            let (who, peer) = there(s, cgroup, || by_tcp(tcp))?;
            ensure!(who.contains("x/b") && peer == tcp, "{who} at {peer}, asked {tcp}");
            there(s, cgroup, || {
                let socket = socket_for(udp)?;
                // Unconnected: by an address each time.
                for _ in 0..3 {
                    socket.send_to(b"word", udp)?;
                    let (who, from) = heard(&socket)?;
                    ensure!(who.contains("x/b") && from == udp, "{who} from {from}, asked {udp}");
                }
                // Connected: to the same, and by no address.
                socket.connect(udp)?;
                ensure!(socket.peer_addr()? == udp, "connected to {}", socket.peer_addr()?);
                socket.send(b"word")?;
                let (who, from) = heard(&socket)?;
                ensure!(who.contains("x/b") && from == udp, "{who} from {from}, connected to {udp}");
                Ok(())
            })?;
        }
        // Who is asked by its own address has it.
        for address in s.pod("x/b")?.addresses().to_vec() {
            let own = SocketAddr::new(address, 80);
            let peer = there(s, cgroup, || {
                let socket = socket_for(own)?;
                socket.send_to(b"word", SocketAddr::new(vips()[usize::from(own.is_ipv6())], 53))?;
                heard(&socket)?;
                socket.send_to(b"word", own)?;
                ensure!(heard(&socket)?.1 == own, "a backend that was asked itself has a service's name");
                Ok(by_tcp(own)?.1)
            })?;
            ensure!(peer == own, "{peer}");
        }
        let status = s.node.show("status")?["nodeSockets"].to_string();
        ensure!(status.contains("reach services") && status.contains(&*cgroup.path().to_string_lossy()), "{status}");
        Ok(())
    })
}

#[test]
fn sockets_of_other_namespaces_and_cgroups_are_left_alone() -> Result<()> {
    sockets(&["x/a", "x/b"], |s, cgroup| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        expect_there(s, cgroup, Outcome::Allowed)?;
        let vip = vips()[0];
        let met = |from: &NetNs, inside: bool| {
            let probe = || tests::probe::probe(from, vip, Tcp(443));
            if inside { cgroup.inside(probe) } else { probe() }
        };
        ensure!(met(s.node.namespace(), false)? != Outcome::Allowed, "a process outside the cgroup");
        // A pod's socket in the cgroup is translated at its interface, where policy sees it.
        let pod = s.pod("x/a")?.namespace();
        let stream = cgroup.inside(|| pod.inside(|| Ok(TcpStream::connect((vip, 443))?)))?;
        let port = stream.local_addr()?.port();
        let flows = s.node.show("conntrack")?;
        let is_its = |flow: &&Value| flow["sourcePort"] == port || flow["destinationPort"] == port;
        let its: Vec<_> = flows.as_array().into_iter().flatten().filter(is_its).collect();
        ensure!(its.iter().any(|flow| flow["service"] == "10.96.0.10:443"), "not opened to the service: {its:?}");
        // Another node, with an agent of its own at the same cgroup, and no way to the pods but by its programs' leave.
        let mut other = s.cluster.node(NodeSpec::new(2))?;
        other.start()?;
        ensure!(met(other.namespace(), true)? != Outcome::Allowed, "a node whose agent has no programs at the cgroup");
        drop(other);
        ensure!(met(s.node.namespace(), true)? == Outcome::Allowed, "the node itself");
        Ok(())
    })
}

#[test]
fn where_nobody_is_behind_a_service_a_call_is_refused_and_where_they_are_elsewhere_it_fails_as_kube_proxy_has_it()
-> Result<()> {
    sockets(&["x/a"], |s, cgroup| {
        service(s, ", internalTrafficPolicy: Local")?;
        slices(s, &[])?;
        expect_there(s, cgroup, Outcome::Reset)?;
        let errors = |vip: IpAddr| {
            there(s, cgroup, || {
                let udp = SocketAddr::new(vip, 53);
                let tcp = TcpStream::connect(SocketAddr::new(vip, 443)).map(drop);
                let (sent, connected) =
                    (socket_for(udp)?.send_to(b"word", udp).map(drop), socket_for(udp)?.connect(udp));
                Ok([tcp, sent, connected].map(|done| done.err().map(|error| error.kind())))
            })
        };
        for vip in all_vips() {
            let met = errors(vip)?;
            ensure!(met == [Some(ErrorKind::ConnectionRefused); 3], "{vip}: {met:?}");
        }
        slices(s, &[("x/a", ELSEWHERE)])?;
        let silent = [ErrorKind::TimedOut, ErrorKind::PermissionDenied, ErrorKind::PermissionDenied].map(Some);
        for vip in all_vips() {
            wait::wait_until(&format!("{vip} is silent"), wait::PATIENCE, || Ok(errors(vip)? == silent))?;
        }
        Ok(())
    })
}

#[test]
fn the_node_keeps_to_one_backend_where_the_service_says_so_and_meets_all_where_not() -> Result<()> {
    sockets(&["x/a", "x/b"], |s, cgroup| {
        let who = |vip: IpAddr| Ok(there(s, cgroup, || by_tcp(SocketAddr::new(vip, 443)))?.0.contains("x/a"));
        let met = |vip: IpAddr| (0..40).map(|_| who(vip)).collect::<Result<Vec<bool>>>();
        service(s, "")?;
        slices(s, &[("x/a", READY), ("x/b", READY)])?;
        expect_there(s, cgroup, Outcome::Allowed)?;
        for vip in all_vips() {
            wait::wait_until("both are met", wait::PATIENCE, || {
                let met = met(vip)?;
                Ok(met.contains(&true) && met.contains(&false))
            })?;
        }
        service(s, ", sessionAffinity: ClientIP")?;
        for vip in all_vips() {
            wait::wait_until("one is met", wait::PATIENCE, || {
                let met = met(vip)?;
                Ok(met.iter().all(|each| *each == met[0]))
            })?;
        }
        Ok(())
    })
}

#[test]
fn connections_are_made_all_the_while_the_agent_dies_and_another_takes_over() -> Result<()> {
    sockets(&["x/a", "x/b"], |s, cgroup| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        expect_there(s, cgroup, Outcome::Allowed)?;
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let namespace = File::open(s.node.namespace().held_path())?;
        let ask = |vip: IpAddr| -> Result<u64> {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                by_tcp(SocketAddr::new(vip, 443)).with_context(|| format!("after {asked} connections"))?;
                asked += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(asked)
        };
        let ask = |vip: IpAddr| cgroup.inside(|| namespace::inside(namespace.as_fd(), || ask(vip))?);
        let more = || {
            let before = done.load(Ordering::Relaxed);
            wait::wait_until("connections are made", wait::PATIENCE, || Ok(done.load(Ordering::Relaxed) > before + 8))
        };
        thread::scope(|scope| {
            let askers = vips().map(|vip| scope.spawn(move || ask(vip)));
            let mut lives = || -> Result<()> {
                more()?;
                let before = numbers(cgroup)?;
                for _ in 0..3 {
                    s.node.agent.kill()?;
                    more()?;
                    s.node.start()?;
                    more()?;
                }
                ensure!(before.len() == 8 && numbers(cgroup)? == before, "other programs than the former: {before:?}");
                Ok(())
            };
            let lived = lives();
            stop.store(true, Ordering::Relaxed);
            for asker in askers {
                ensure!(asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))? > 0, "nobody asked");
            }
            lived
        })
    })
}

/// The numbers of the programs at the cgroup.
fn numbers(cgroup: &Cgroup) -> Result<Vec<u64>> {
    let text = netns::run(Command::new("bpftool").args(["-j", "cgroup", "show"]).arg(cgroup.path()))?;
    let found: Value = serde_json::from_str(&text).unwrap_or_default();
    Ok(found.as_array().into_iter().flatten().filter_map(|program| program["id"].as_u64()).collect())
}

#[test]
fn sockets_of_a_backend_that_is_gone_are_ended_and_others_live_on() -> Result<()> {
    sockets(&["x/a", "x/b"], |s, cgroup| {
        service(s, "")?;
        slices(s, &[("x/a", READY)])?;
        expect_there(s, cgroup, Outcome::Allowed)?;
        for vip in all_vips() {
            let (tcp, udp) = (SocketAddr::new(vip, 443), SocketAddr::new(vip, 53));
            let own = s.pod("x/a")?.addresses().iter().find(|own| own.is_ipv4() == vip.to_canonical().is_ipv4());
            let own = SocketAddr::new(*own.context("an address of its own")?, 80);
            let (mut stream, datagrams, mut itself) = there(s, cgroup, || {
                let (mut stream, datagrams) = (TcpStream::connect(tcp)?, socket_for(udp)?);
                stream.set_read_timeout(Some(wait::PATIENCE))?;
                datagrams.connect(udp)?;
                let mut itself = TcpStream::connect(own)?;
                read_line(&mut stream)?;
                read_line(&mut itself)?;
                Ok((stream, datagrams, itself))
            })?;
            slices(s, &[("x/a", LEAVING), ("x/b", READY)])?;
            wait::wait_until("the other is asked", wait::PATIENCE, || {
                Ok(there(s, cgroup, || by_tcp(tcp))?.0.contains("x/b"))
            })?;
            stream.write_all(b"word\n")?;
            ensure!(read_line(&mut stream)? == "word", "it lives while its backend is listed");
            slices(s, &[("x/b", READY)])?;
            let aborted = |met: io::Result<usize>| met.is_err_and(|error| error.kind() == ErrorKind::ConnectionAborted);
            // They wait, as their processes would.
            ensure!(aborted(stream.read(&mut [0])), "{vip}: the connection is not ended");
            ensure!(aborted(datagrams.recv(&mut [0])), "{vip}: connected datagrams are not ended");
            itself.write_all(b"word\n")?;
            ensure!(read_line(&mut itself)? == "word", "who asked for the pod itself is none of the service's");
            slices(s, &[("x/a", READY)])?;
            wait::wait_until("the first is asked", wait::PATIENCE, || {
                Ok(there(s, cgroup, || by_tcp(tcp))?.0.contains("x/a"))
            })?;
        }
        Ok(())
    })
}

#[test]
fn what_others_detach_is_put_back_and_cleanup_leaves_nothing() -> Result<()> {
    sockets(&["x/b"], |s, cgroup| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        expect_there(s, cgroup, Outcome::Allowed)?;
        let pins = s.node.bpffs().join("sockets");
        netns::run(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(pins.join("connect4")))?;
        std::fs::remove_file(pins.join("connect6"))?;
        wait::wait_until("both are back", wait::PATIENCE, || {
            Ok(numbers(cgroup)?.len() == 8 && pins.join("connect6").exists())
        })?;
        expect_there(s, cgroup, Outcome::Allowed)?;
        s.node.agent.stop()?;
        ensure!(
            there(s, cgroup, || by_tcp(SocketAddr::new(vips()[0], 443))).is_ok(),
            "a stopped agent changes nothing"
        );
        let cleaned = s.node.cleanup()?;
        ensure!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        ensure!(numbers(cgroup)?.is_empty() && !pins.exists(), "programs are left");
        // An agent that shall have none takes a former one's away.
        s.node.start()?;
        ensure!(numbers(cgroup)?.len() == 8, "attached again");
        Ok(())
    })
}

#[test]
fn without_a_cgroup_the_agent_goes_on_and_says_so() -> Result<()> {
    story_on(NodeSpec::new(1).cgroup(Some("/tmp".as_ref())), &["x/a"], |s| {
        let said = s.node.show("status")?["nodeSockets"].to_string();
        ensure!(said.contains("/tmp is no cgroup of version 2"), "{said}");
        Ok(())
    })
}

#[test]
fn the_agent_finds_the_root_by_itself_and_lets_go_of_it_when_it_is_told_so() -> Result<()> {
    story_on(NodeSpec::new(1).cgroup(None), &["x/b"], |s| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        let met = |s: &Story| tests::probe::probe(s.node.namespace(), vips()[0], Tcp(443));
        wait::wait_until("this process is in it", wait::PATIENCE, || Ok(met(s)? == Outcome::Allowed))?;
        s.node.agent.stop()?;
        let mut arguments = s.node.agent.arguments().to_vec();
        arguments.extend(["--cgroup".into(), "off".into()]);
        s.node.agent.set_arguments(arguments);
        s.node.start()?;
        ensure!(met(s)? != Outcome::Allowed && !s.node.bpffs().join("sockets").exists(), "former programs are left");
        Ok(())
    })
}
