//! Other hands: what somebody else changes on a node is put back by the running agent, and counted.
//! In: one change by `ip`, `bpftool`, a sysctl or a write to a map. Out: the same node as before, and a row in `show status`.
//! Invariant: each hand does harm that is seen before the agent has mended it, or that the kernel confirms.
//! Never: waits by time; the count in `show status` is the sign.

use crate::story::{Story, story};
use abi::{
    Address, ClassEntry, Endpoint, RowKey, RowRef, SetEntry,
    endpoint::ENDPOINT_QUEUED,
    maps::{self, MapSpec},
};
use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tests::{
    Outcome,
    Probe::{Tcp, Udp},
    netns,
    steady::Steady,
    tcx,
    wait::{PATIENCE, wait_until},
};

/// x/a lets in x/b only.
const FROM_B: &str =
    "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }";
const HOLDS: &str = "x/a\n x/b .\n x/c X";

/// A node on which x/a lets in x/b and not x/c.
fn policed(test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        s.policy("x/p", FROM_B)?;
        s.expect(Tcp(80), HOLDS)?;
        test(s)
    })
}

/// How often things of a kind were put back.
fn repaired(s: &Story, kind: &str) -> Result<u64> {
    let status = s.node.show("status")?;
    let rows = status["driftRepaired"].as_array().context("no driftRepaired in the status")?;
    Ok(rows.iter().find(|row| row["kind"] == kind).and_then(|row| row["count"].as_u64()).unwrap_or(0))
}

/// Does harm, and waits until the agent says that it mended something of this kind.
pub fn harm(s: &Story, kind: &str, what: &str, hand: impl FnOnce(&Story) -> Result<()>) -> Result<()> {
    harm_of(s, &[kind], what, hand)
}

/// The same of one of these kinds: it depends on when the agent looks.
fn harm_of(s: &Story, kinds: &[&str], what: &str, hand: impl FnOnce(&Story) -> Result<()>) -> Result<()> {
    let count = || kinds.iter().map(|kind| repaired(s, kind)).sum::<Result<u64>>();
    let before = count()?;
    hand(s).with_context(|| what.to_owned())?;
    let begin = Instant::now();
    wait_until(&format!("{what} is put back"), PATIENCE, || Ok(count()? > before))?;
    println!("put back: {what} ({}) after {:?}", kinds.join(" or "), begin.elapsed());
    Ok(())
}

fn has_route(s: &Story, address: IpAddr, host: &str) -> Result<bool> {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    let routes = s.node.namespace().ip_json(&format!("{family} route show {address} dev {host}"))?;
    Ok(routes.as_array().is_some_and(|routes| !routes.is_empty()))
}

/// Host interface of a pod.
fn cali<'a>(s: &'a Story, pod: &str) -> Result<&'a str> {
    Ok(s.pod(pod)?.host_interface())
}

pub fn index(s: &Story, interface: &str) -> Result<u32> {
    let links = s.node.namespace().ip_json(&format!("link show dev {interface}"))?;
    links[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).context("an interface without index")
}

fn sysctl(s: &Story, path: &str) -> Result<String> {
    Ok(s.node.namespace().read(&format!("/proc/sys/net/{path}"))?.trim().to_owned())
}

#[test]
fn routes_neighbours_links_and_settings_that_others_change_are_put_back() -> Result<()> {
    policed(|s| {
        let host = cali(s, "x/a")?.to_owned();
        let addresses = s.pod("x/a")?.addresses().to_vec();
        for address in &addresses {
            harm(s, "route", "a removed route", |s| s.node.namespace().ip(&[&format!("route del {address}")]))?;
            harm(s, "neighbour", "a removed neighbour", |s| {
                s.node.namespace().ip(&[&format!("neighbour del {address} dev {host}")])
            })?;
            harm(s, "neighbour", "a neighbour with another MAC", |s| {
                let line = format!("neighbour replace {address} lladdr 02:00:00:00:00:99 dev {host} nud permanent");
                s.node.namespace().ip(&[&line])
            })?;
        }
        let address = addresses[0];
        harm(s, "route", "a blackhole in the route's place", |s| {
            s.node.namespace().ip(&[&format!("route replace blackhole {address}")])
        })?;
        harm(s, "link", "a link set down", |s| s.node.namespace().ip(&[&format!("link set {host} down")]))?;
        // An agent that looks between the two finds the link down.
        harm_of(s, &["route", "link"], "a link set down and up again, which takes its routes along", |s| {
            s.node.namespace().ip(&[&format!("link set {host} down"), &format!("link set {host} up")])
        })?;
        for address in addresses {
            wait_until(&format!("the route to {address}"), PATIENCE, || has_route(s, address, &host))?;
        }
        harm(s, "link", "a link with another MAC", |s| {
            s.node.namespace().ip(&[&format!("link set {host} address 02:00:00:00:00:98")])
        })?;
        for (setting, value) in [("forwarding", "0"), ("rp_filter", "1"), ("proxy_arp", "1")] {
            harm(s, "setting", setting, |s| s.node.namespace().sysctl(&format!("ipv4/conf/{host}/{setting}"), value))?;
        }
        for setting in [format!("ipv6/conf/{host}/forwarding"), "ipv4/conf/eth0/forwarding".to_owned()] {
            harm(s, "setting", &setting, |s| s.node.namespace().sysctl(&setting, "0"))?;
            assert_eq!(sysctl(s, &setting)?, "1");
        }
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X\n node1 .")
    })
}

pub fn pin(s: &Story, interface: &str, program: &str) -> Result<PathBuf> {
    Ok(s.node.bpffs().join("links").join(format!("{}-{program}", index(s, interface)?)))
}

pub fn detach(pin: &Path) -> Result<()> {
    // A pod's programs are moved to links some time after it came.
    wait_until("the program is attached by a link", PATIENCE, || Ok(pin.exists()))?;
    netns::run(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(pin)).map(drop)
}

#[test]
fn programs_that_others_detach_or_push_back_are_put_first_again() -> Result<()> {
    policed(|s| {
        let host = cali(s, "x/a")?.to_owned();
        for (interface, program) in [(&*host, "from_workload"), (&*host, "to_workload"), ("eth0", "from_uplink")] {
            harm(s, "program", &format!("{program} detached"), |s| detach(&pin(s, interface, program)?))?;
        }
        let index = index(s, &host)?;
        for program in ["from_workload", "to_workload"] {
            let pin = pin(s, &host, program)?;
            wait_until("the program is attached by a link again", PATIENCE, || Ok(pin.exists()))?;
        }
        let mut foreign = None;
        harm(s, "program", "another program put before ours", |s| {
            foreign = Some(tcx::put_first(s.node.namespace(), index)?);
            Ok(())
        })?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X\n node1 .")?;
        drop(foreign);
        s.expect_now(Udp(80), HOLDS)?;
        // The next agent finds them where they belong.
        s.node.agent.kill()?;
        s.node.start()?;
        s.expect(Tcp(80), HOLDS)
    })
}

#[test]
fn an_agent_whose_pins_are_removed_goes_on_without_a_gap_and_pins_again() -> Result<()> {
    policed(|s| {
        let target = (s.pod("x/a")?.address(), 5300).into();
        let ends = |from: &str| Ok::<_, anyhow::Error>((s.pod(from)?.namespace(), s.pod("x/a")?.namespace()));
        let (from, to) = ends("x/b")?;
        let allowed = Steady::start(from, to, target, 1, Duration::from_millis(1))?;
        let refused = (s.pod("x/a")?.address(), 5301).into();
        let (from, to) = ends("x/c")?;
        let refused = Steady::start(from, to, refused, 64, Duration::from_millis(1))?;
        wait_until("every program is attached by a link", PATIENCE, || {
            let pins = fs::read_dir(s.node.bpffs().join("links")).context("the links' pins")?;
            // Beside them stand the marks of clsacts of ours, which are folders.
            Ok(pins.flatten().filter(|pin| pin.file_type().is_ok_and(|kind| kind.is_file())).count() == 7)
        })?;
        harm(s, "program", "all pins removed", |s| Ok(fs::remove_dir_all(s.node.bpffs())?))?;
        wait_until("the maps are pinned again", PATIENCE, || Ok(repaired(s, "pin")? > 0))?;
        wait_until("every link is pinned again", PATIENCE, || {
            Ok(fs::read_dir(s.node.bpffs().join("links")).map_or(0, Iterator::count) == 7)
        })?;
        let (allowed, refused) = (allowed.stop()?, refused.stop()?);
        assert_eq!(allowed.missing, [] as [u64; 0], "of {}", allowed.sent);
        assert_eq!(refused.arrived, 0, "of {}", refused.sent);
        // What is pinned again is what is in force: the next agent adopts it.
        s.node.agent.kill()?;
        s.expect_now(Udp(80), HOLDS)?;
        s.node.start()?;
        s.expect(Tcp(80), HOLDS)
    })
}

fn map(s: &Story, spec: &MapSpec) -> Result<Map> {
    let pin = s.node.bpffs().join("maps").join(format!("{}-v{}", spec.name, spec.version));
    let data = MapData::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))?;
    Ok(Map::from_map_data(data)?)
}

fn array<V: aya::Pod>(s: &Story, spec: &MapSpec) -> Result<Array<MapData, V>> {
    Ok(Array::try_from(map(s, spec)?)?)
}

pub fn hash<K: aya::Pod, V: aya::Pod>(s: &Story, spec: &MapSpec) -> Result<HashMap<MapData, K, V>> {
    Ok(HashMap::try_from(map(s, spec)?)?)
}

fn address(s: &Story, pod: &str) -> Result<Address> {
    match s.pod(pod)?.address() {
        std::net::IpAddr::V4(v4) => Ok(Address::from_v4(v4.octets())),
        std::net::IpAddr::V6(v6) => Ok(Address::from_bytes(v6.octets())),
    }
}

/// The slot of a pod's endpoint.
fn slot(s: &Story, pod: &str) -> Result<u32> {
    let shown = s.node.show("endpoints")?;
    let rows = shown.as_array().context("no endpoints")?;
    let row = rows.iter().find(|row| row["pod"] == pod).with_context(|| format!("no endpoint of {pod}"))?;
    row["slot"].as_u64().and_then(|slot| u32::try_from(slot).ok()).context("an endpoint without slot")
}

type Hand = fn(&Story) -> Result<()>;

/// Those by which x/b is refused for a while.
const REFUSING: [&str; 3] = ["an endpoint's slot zeroed", "an interface's entry removed", "a row removed"];

/// Each changes one table behind the agent's back.
const TABLE_HANDS: [(&str, Hand); 8] = [
    ("an endpoint's slot zeroed", |s| {
        let slot = slot(s, "x/a")?;
        Ok(array(s, &maps::ENDPOINTS)?.set(slot, &Endpoint::default(), 0)?)
    }),
    ("an endpoint's rules changed for another set", |s| {
        let slot = slot(s, "x/a")?;
        let mut endpoints = array::<Endpoint>(s, &maps::ENDPOINTS)?;
        let entry = endpoints.get(&slot, 0)?;
        // What x/b lets in, x/a would now: everything.
        let open = endpoints.get(&self::slot(s, "x/b")?, 0)?.ingress;
        Ok(endpoints.set(slot, &Endpoint { ingress: open, ..entry }, 0)?)
    }),
    ("an interface's entry removed", |s| {
        let index = index(s, cali(s, "x/a")?)?;
        Ok(hash::<u32, u32>(s, &maps::INTERFACES)?.remove(&index)?)
    }),
    ("an address's entry removed", |s| Ok(hash::<Address, u32>(s, &maps::ADDRESSES)?.remove(&address(s, "x/c")?)?)),
    ("the class of an address changed", |s| {
        let slots = hash::<Address, u32>(s, &maps::ADDRESSES)?;
        let (b, c) = (slots.get(&address(s, "x/b")?, 0)?, slots.get(&address(s, "x/c")?, 0)?);
        let mut classes = array::<ClassEntry>(s, &maps::CLASSES)?;
        let (of_b, of_c) = (classes.get(&b, 0)?, classes.get(&c, 0)?);
        Ok(classes.set(c, &ClassEntry { class: of_b.class, ..of_c }, 0)?)
    }),
    ("a row removed", |s| {
        let mut rows = hash::<RowKey, RowRef>(s, &maps::ROWS)?;
        let key = rows.keys().next().context("no row")??;
        Ok(rows.remove(&key)?)
    }),
    ("a rule set's default row changed", |s| {
        let set = array::<Endpoint>(s, &maps::ENDPOINTS)?.get(&slot(s, "x/a")?, 0)?.ingress.new();
        let open = array::<Endpoint>(s, &maps::ENDPOINTS)?.get(&slot(s, "x/b")?, 0)?.ingress.new();
        let mut sets = array::<SetEntry>(s, &maps::SETS)?;
        let row = sets.get(&open, 0)?.row;
        let entry = sets.get(&set, 0)?;
        Ok(sets.set(set, &SetEntry { row, ..entry }, 0)?)
    }),
    ("the generation moved on", |s| {
        let mut generation = array::<u64>(s, &maps::GENERATION)?;
        let found = generation.get(&0, 0)?;
        Ok(generation.set(0, &(found + 1000), 0)?)
    }),
];

#[test]
fn table_entries_that_others_change_are_put_back_and_their_flows_judged_again() -> Result<()> {
    policed(|s| {
        for (what, hand) in TABLE_HANDS {
            let mut connection = s.pod("x/b")?.connect(s.pod("x/a")?, 80)?;
            assert!(connection.answers()?);
            harm(s, "table", what, hand)?;
            s.expect_now(Tcp(80), HOLDS).with_context(|| what.to_owned())?;
            // A damage that refuses packets refuses their flow until it is opened anew, as a policy would.
            assert!(
                REFUSING.contains(&what) || connection.answers()?,
                "{what}: a flow that was always allowed was cut"
            );
        }
        Ok(())
    })
}

#[test]
fn a_flow_that_came_by_a_changed_table_ends_with_the_repair() -> Result<()> {
    policed(|s| {
        let (target, [from, to]) =
            ((s.pod("x/a")?.address(), 5300).into(), [s.pod("x/c")?.namespace(), s.pod("x/a")?.namespace()]);
        let refused = Steady::start(from, to, target, 1, Duration::from_millis(1))?;
        // Opened by hand again and again until a packet has come through before the repair.
        wait_until("a packet passes by the open rules", PATIENCE, || {
            TABLE_HANDS[1].1(s)?;
            Ok(refused.arrived() > 0)
        })?;
        wait_until("its flow is refused again", PATIENCE, || {
            let before = refused.arrived();
            s.expect_now(Tcp(80), HOLDS)?;
            Ok(refused.arrived() == before)
        })?;
        refused.stop().map(drop)
    })
}

#[test]
fn a_link_that_is_deleted_and_made_anew_is_served_again() -> Result<()> {
    policed(|s| {
        let host = cali(s, "x/a")?.to_owned();
        let pod = s.pod("x/a")?;
        let old = pod.namespace().ip_json("link show dev eth0")?;
        let mac = old[0]["address"].as_str().context("a MAC")?.to_owned();
        let address = pod.address();
        harm(s, "link", "a link deleted and made anew", |s| {
            s.node.namespace().ip(&[
                &format!("link del {host}"),
                &format!("link add {host} type veth peer name eth0 address {mac} netns {}", pod.namespace().name()),
            ])?;
            pod.namespace().ip(&[
                "link set eth0 up",
                &format!("address add {address}/32 dev eth0"),
                "route add 169.254.1.1 dev eth0 scope link",
                "route add default via 169.254.1.1 dev eth0",
            ])
        })?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Allowed)?;
        assert_eq!(s.probe("x/c", "x/a", Tcp(80))?, Outcome::Refused);
        Ok(())
    })
}

#[test]
fn a_queueing_discipline_put_on_a_pods_interface_is_heeded_as_it_comes_and_goes() -> Result<()> {
    policed(|s| {
        let host = cali(s, "x/a")?.to_owned();
        let slot = slot(s, "x/a")?;
        let is_queued = || Ok(array::<Endpoint>(s, &maps::ENDPOINTS)?.get(&slot, 0)?.flags & ENDPOINT_QUEUED != 0);
        let tc =
            |line: &str| netns::run(Command::new("tc").args(["-n", s.node.namespace().name()]).args(line.split(' ')));
        assert!(!is_queued()?);
        tc(&format!("qdisc add dev {host} root tbf rate 1gbit burst 64kb latency 50ms"))?;
        wait_until("the queue is heeded", PATIENCE, is_queued)?;
        s.expect(Tcp(80), HOLDS)?;
        tc(&format!("qdisc del dev {host} root"))?;
        wait_until("its end is heeded", PATIENCE, || Ok(!is_queued()?))?;
        s.expect(Tcp(80), HOLDS)?;
        assert_eq!(s.node.show("status")?["driftRepaired"], serde_json::json!([]), "asked for, so no drift");
        Ok(())
    })
}

fn readiness(s: &Story) -> Result<String> {
    s.node.namespace().inside(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", 9099)).context("asking for health")?;
        stream.write_all(b"GET /readiness HTTP/1.1\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    })
}

#[test]
fn an_agent_stays_ready_while_others_change_things_all_the_time() -> Result<()> {
    policed(|s| {
        let address = s.pod("x/a")?.address();
        let before = repaired(s, "route")?;
        wait_until("twenty routes were put back", PATIENCE, || {
            // Gone already is as good.
            let _ = s.node.namespace().ip(&[&format!("route del {address}")]);
            ensure!(readiness(s)?.contains("200"), "not ready");
            Ok(repaired(s, "route")? >= before + 20)
        })?;
        wait_until("the last one too", PATIENCE, || {
            Ok(s.node.namespace().ip_json("route show")?.to_string().contains(&address.to_string()))
        })?;
        s.expect(Tcp(80), HOLDS)
    })
}
