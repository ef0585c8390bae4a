//! Floods: one pod, or somebody outside, opens flow after flow; the others go on as if nothing were (PKT-78).
//! In: small flow tables, a flood of each kind, running flows of other pods. Out: nothing lost, new connections, who was refused.
//! Invariant: a flood has gone several times over every table before anything is looked at, and goes on meanwhile.
//! Never: waits for a timeout.

use crate::story::{Story, story_on};
use abi::maps;
use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData, loaded_maps};
use std::net::{IpAddr, Ipv4Addr};
use tests::{
    NodeSpec, Outcome, Pod, Probe,
    flood::{self, End, Flood, Running},
    frame::parse_mac,
    wait::{PATIENCE, wait_until},
};

const CONNTRACK: u64 = 1024;
const QUOTA: u64 = CONNTRACK / 8;
/// Flows until each table would have been full several times.
const ENOUGH: u64 = 4 * CONNTRACK;

/// Nobody may reach port 81 of the victim's neighbour.
const NOT_81: &str = "{ podSelector: { matchLabels: { pod: b } }, ingress: [{ ports: [{ port: 80 }, { port: 80, protocol: UDP }, { port: 9, protocol: UDP }] }] }";

fn small() -> NodeSpec {
    NodeSpec::new(1).argument("--map-entries").argument(&format!("CONNTRACK={CONNTRACK},NEWFLOW=512"))
}

/// A pod's IPv4 address.
pub fn v4(pod: &Pod) -> Result<Ipv4Addr> {
    let found = pod.addresses().iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    found.context("a pod without an IPv4 address")
}

/// A pod's end of a flood.
pub fn end(s: &Story, id: &str) -> Result<End> {
    let pod = s.pod(id)?;
    End::pod(pod.namespace(), v4(pod)?)
}

/// Others' flows under a flood; `begin` starts it. What `show drops` says of the others is of first packets only.
fn others_do_not_notice(s: &Story, what: &str, begin: impl FnOnce() -> Result<Running>) -> Result<()> {
    let (client, server) = (s.pod("x/c")?, s.pod("x/d")?);
    let (tcp, udp) = (client.tcp_stream(server, 80)?, client.udp_stream(server, 80)?);
    let mut idle = client.connect(server, 81)?;
    assert!(idle.answers()?);
    let flood = begin()?;
    wait_until("the flood has gone over every table", PATIENCE, || Ok(flood.flows() > ENOUGH))?;
    for _ in 0..3 {
        let mut new = client.connect(server, 81).with_context(|| format!("a new connection under {what}"))?;
        assert!(new.answers()?, "a new connection under {what}");
    }
    assert!(idle.answers()?, "a connection that was idle under {what}");
    let again = tcp.sent_again([client.namespace(), server.namespace()])?;
    let (tcp, udp, flows) = (tcp.stop()?, udp.stop()?, flood.stop()?);
    assert_eq!(
        (tcp.lost(), udp.lost(), again),
        (0, 0, 0),
        "of {} and {}, under {flows} flows of {what}",
        tcp.sent,
        udp.sent
    );
    let shown = s.node.show("capacity")?;
    let used = |map: &str| {
        let row = shown.as_array()?.iter().find(|row| row["map"] == map)?;
        row["used"].as_u64()
    };
    let tracked = used("CONNTRACK").context("no row of CONNTRACK")?;
    assert!(tracked < 2 * QUOTA, "{tracked} flows are kept after {what}");
    Ok(())
}

/// Keeps a pod's own stack from answering another.
fn silence(s: &Story, pod: &str, to: &str) -> Result<()> {
    s.pod(pod)?.namespace().ip(&[&format!("route add blackhole {}/32", v4(s.pod(to)?)?)])
}

fn is_refused_for_its_quota(s: &Story, pod: &str) -> Result<bool> {
    let drops = s.node.show("drops")?;
    let rows = drops.as_array().context("drops are a list")?;
    Ok(rows.iter().any(|row| row["pod"] == pod && row["reason"] == "flow-quota"))
}

#[test]
fn pkt_78_a_pods_flood_of_half_open_flows_leaves_the_others_alone() -> Result<()> {
    story_on(small(), &["x/a", "x/b", "x/c", "x/d"], |s| {
        s.policy("x/p", NOT_81)?;
        s.expect(Probe::Tcp(81), "x/b\n x/a X")?;
        for flood in [Flood::Syns(80), Flood::Syns(81), Flood::Datagrams, Flood::Pings] {
            others_do_not_notice(s, &format!("{flood:?}"), || Ok(flood::begin(flood, end(s, "x/a")?, end(s, "x/b")?)))?;
        }
        assert!(!is_refused_for_its_quota(s, "x/a")?, "half-open flows are on nobody's quota");
        Ok(())
    })
}

#[test]
fn pkt_78_a_flood_that_an_accomplice_answers_ends_at_its_owners_quota() -> Result<()> {
    for flood in [Flood::Handshakes(80), Flood::Talks, Flood::PingTalks] {
        story_on(small(), &["x/a", "x/b", "x/c", "x/d"], |s| {
            if flood == Flood::Handshakes(80) {
                // Their stacks know nothing of these connections, and would reset them.
                silence(s, "x/a", "x/b")?;
                silence(s, "x/b", "x/a")?;
            }
            others_do_not_notice(s, &format!("{flood:?}"), || Ok(flood::begin(flood, end(s, "x/a")?, end(s, "x/b")?)))?;
            assert!(is_refused_for_its_quota(s, "x/a")?, "{}", s.node.show("drops")?);
            assert!(!is_refused_for_its_quota(s, "x/c")?);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn pkt_78_a_flood_from_outside_leaves_the_others_and_the_target_itself_alone() -> Result<()> {
    story_on(small(), &["x/b", "x/c", "x/d"], |s| {
        let links = s.node.namespace().ip_json("link show dev eth0")?;
        let node = parse_mac(links[0]["address"].as_str().unwrap_or_default())?;
        // What the target's stack answers to forged senders has a way to go.
        s.node.namespace().ip(&["route add 198.18.0.0/15 via 192.0.2.254"])?;
        for flood in [Flood::Syns(80), Flood::Datagrams, Flood::Pings] {
            others_do_not_notice(s, &format!("{flood:?} from outside"), || {
                let outside = End::outside(s.cluster.outside(), "br0", node)?;
                Ok(flood::begin(flood, outside, end(s, "x/b")?))
            })?;
            let mut own = s.pod("x/b")?.connect(s.pod("x/d")?, 80)?;
            assert!(own.answers()?, "the target's own connection after {flood:?}");
        }
        assert!(!is_refused_for_its_quota(s, "x/b")?, "{}", s.node.show("drops")?);
        Ok(())
    })
}

#[test]
fn flows_go_on_expiring_with_the_agent_dead_and_the_cursor_ends_with_its_pins() -> Result<()> {
    let spec = small().argument("--conntrack-timeouts").argument("tcpFinsSeen=1,tcpResetSeen=1,udp=1");
    story_on(spec, &["x/c", "x/d"], |s| {
        let udp = s.pod("x/c")?.udp_stream(s.pod("x/d")?, 80)?;
        for _ in 0..5 {
            assert_eq!(s.probe("x/c", "x/d", Probe::Tcp(80))?, Outcome::Allowed);
        }
        assert!(pinned(s, &maps::QUOTA)?.1 >= 1);
        s.node.agent.kill()?;
        udp.stop()?;
        wait_until("the cursor has removed every flow", PATIENCE, || Ok(pinned(s, &maps::QUOTA)?.1 == 0))?;
        s.node.start()?;
        let mut after = s.pod("x/c")?.connect(s.pod("x/d")?, 80)?;
        assert!(after.answers()?);
        assert_eq!(pinned(s, &maps::QUOTA)?.1, 1);
        let timer = pinned(s, &maps::EXPIRY)?.0;
        s.node.agent.stop()?;
        anyhow::ensure!(s.node.cleanup()?.status.success(), "cleanup");
        wait_until("nothing holds the timer any more", PATIENCE, || Ok(!is_loaded(timer)))
    })
}

/// A pinned map's id, and the first word in it: read as anybody could, for the agent is dead.
fn pinned(s: &Story, spec: &maps::MapSpec) -> Result<(u32, u64)> {
    let pin = s.node.bpffs().join("maps").join(format!("{}-v{}", spec.name, spec.version));
    let data = MapData::from_pin(pin)?;
    let id = data.info()?.id();
    let first = Array::<MapData, u64>::try_from(Map::from_map_data(data)?).ok().and_then(|map| map.get(&0, 0).ok());
    Ok((id, first.unwrap_or(0)))
}

/// Whether the kernel still has the map of this id.
fn is_loaded(id: u32) -> bool {
    loaded_maps().filter_map(Result::ok).any(|map| map.id() == id)
}
