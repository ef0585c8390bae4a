//! ICMP errors through a service, as the stacks at both ends learn of them: MTUs, closed ports, spent hops.
//! In: a pod that nobody may send to, a service, a backend beyond a router with a narrower way. Out: what sockets are told.
//! Invariant: the pod knows the service's address alone, and the backend its own.
//! Never: trusts a capture; the kernel that got the error has checked it.

use crate::{
    services::slices_of,
    story::{Story, story},
    way::{alone, far_host},
};
use anyhow::{Context as _, Result, ensure};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    thread,
};
use tests::{
    NetNs, Outcome,
    Probe::Tcp,
    Servers, fabric,
    probe::{probe, read_line},
    server::Listen,
    wait::{PATIENCE, wait_until},
    way::{Kind, Way},
};

/// The service's address, the backend's, and that of the router on the way there; of each family.
const ENDS: [(&str, &str, &str); 2] =
    [("10.96.0.10", "198.51.100.2", fabric::OUTSIDE_V4), ("fd00:96::10", "2001:db8:64::2", fabric::OUTSIDE_V6)];
/// More than a few windows.
const BYTES: usize = 512 << 10;
const UNREACHABLE: [(u8, u8); 2] = [(3, 3), (1, 4)];
const EXPIRED: [(u8, u8); 2] = [(11, 0), (3, 0)];

/// The service `x/shop`, TCP 443 and UDP 53, before ports 80 of the host that is far, which a pod reaches then.
fn service(s: &Story) -> Result<()> {
    let [(v4, far_v4, _), (v6, far_v6, _)] = ENDS;
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: shop, namespace: x, creationTimestamp: '2026-01-01T00:00:00Z' }}\n\
         spec: {{ type: ClusterIP, clusterIP: '{v4}', clusterIPs: ['{v4}', '{v6}'], ipFamilies: [IPv4, IPv6], \
         ports: [{{ name: web, port: 443 }}, {{ name: dns, port: 53, protocol: UDP }}] }}\n"
    );
    text += &slices_of(&[
        (far_v4.parse()?, "conditions: { ready: true }".to_owned()),
        (far_v6.parse()?, "conditions: { ready: true }".to_owned()),
    ]);
    s.cluster.manifest("shop", &text)?;
    let from = s.pod("x/a")?.namespace();
    wait_until("the service is there", PATIENCE, || {
        let met = ENDS.map(|(vip, _, _)| probe(from, vip.parse()?, Tcp(443)));
        Ok(met.into_iter().all(|met| met.is_ok_and(|met| met == Outcome::Allowed)))
    })
}

/// The far host speaks and hears of 1500 bytes, and only the router knows better.
fn narrow_in_the_midst(router: &NetNs, far: &NetNs) -> Result<()> {
    far.ip(&["link set eth0 mtu 1500"])?;
    router.ip(&[
        "link set narrow mtu 1500",
        "route add 198.51.100.2 dev narrow mtu lock 1400",
        "route add 2001:db8:64::2 dev narrow mtu lock 1400",
    ])
}

/// The pod `x/a` alone, and the service on a host beyond a router with a narrower way.
fn behind_a_narrow_way(told: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let far = far_host(s)?;
        narrow_in_the_midst(s.cluster.outside(), &far)?;
        let _servers = Servers::start(&far, "far", &[Listen::Tcp(80)])?;
        alone(s)?;
        service(s)?;
        told(s)
    })
}

/// Sends to an echo server, and hears all of it again.
fn transfer(from: &NetNs, to: SocketAddr) -> Result<()> {
    from.inside(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        read_line(&mut stream)?;
        let (mut sending, sent) = (stream.try_clone()?, vec![7; BYTES]);
        thread::scope(|scope| {
            let sender = scope.spawn(|| sending.write_all(&sent));
            let mut heard = vec![0; BYTES];
            stream.read_exact(&mut heard).context("the echo")?;
            ensure!(heard == sent, "other bytes came back");
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("sending")
        })
    })
}

#[test]
fn own_10_a_transfer_through_a_service_completes_over_a_narrow_link_that_only_a_router_knows() -> Result<()> {
    behind_a_narrow_way(|s| {
        let from = s.pod("x/a")?.namespace();
        for (vip, _, _) in ENDS {
            let vip: IpAddr = vip.parse()?;
            // A socket that was connected before would still know the former way.
            let known = || Way::open(from, Kind::Udp, SocketAddr::new(vip, 53))?.mtu();
            assert_eq!(known()?, 1500, "before");
            transfer(from, SocketAddr::new(vip, 443)).with_context(|| vip.to_string())?;
            assert_eq!(known()?, 1400, "{vip}: the pod's kernel has learned it");
        }
        Ok(())
    })
}

#[test]
fn pkt_30_a_pod_is_told_of_the_way_behind_a_service_and_of_a_closed_port_in_the_services_name() -> Result<()> {
    behind_a_narrow_way(|s| {
        for (family, (vip, _, router)) in ENDS.into_iter().enumerate() {
            let vip: IpAddr = vip.parse()?;
            let way = Way::open(s.pod("x/a")?.namespace(), Kind::Udp, SocketAddr::new(vip, 53))?;
            way.send(1500)?;
            let told = way.told().context("too big")?;
            assert_eq!((told.from, told.mtu), (router.parse()?, 1400), "{vip}");
            way.send(100)?;
            let told = way.told().context("closed")?;
            assert_eq!((told.from, told.about), (vip, UNREACHABLE[family]), "{vip}");
            way.hops(2)?;
            way.send(100)?;
            let told = way.told().context("expired")?;
            assert_eq!((told.from, told.about), (router.parse()?, EXPIRED[family]), "{vip}");
        }
        Ok(())
    })
}

#[test]
fn pkt_30_a_backend_is_told_that_a_client_of_its_service_is_gone() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let far = far_host(s)?;
        let _servers = Servers::start(&far, "far", &[Listen::Tcp(80)])?;
        alone(s)?;
        service(s)?;
        for (vip, backend, _) in ENDS {
            let (vip, backend): (IpAddr, IpAddr) = (vip.parse()?, backend.parse()?);
            let served = far.inside(|| Ok(UdpSocket::bind((backend, 80))?))?;
            served.set_read_timeout(Some(PATIENCE))?;
            let client = s.pod("x/a")?.namespace().inside(|| {
                let own: IpAddr = if vip.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
                let client = UdpSocket::bind((own, 0))?;
                client.connect((vip, 53))?;
                client.send(b"are you there")?;
                Ok(client)
            })?;
            let mut buffer = [0; 64];
            let (_, from) = served.recv_from(&mut buffer).context("the question")?;
            served.connect(from)?;
            drop(client);
            served.send(b"yes")?;
            let told = served.recv(&mut buffer).err().context("somebody answered")?;
            ensure!(told.kind() == ErrorKind::ConnectionRefused, "{vip}: {told}");
        }
        Ok(())
    })
}
