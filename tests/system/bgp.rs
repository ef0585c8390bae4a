//! BGP between nodes: two subnets with a router of plain BIRD between them, and real BIRDs beside the agents.
//! In: pods on three nodes, objects of BGP. Out: who reaches whom, by whose routes, and what is said of sessions.
//! Invariant: packets between pods of the two subnets find no other way than what BGP has told the nodes and the router.
//! Never: leaves a BIRD behind: a node's goes with the node, the router's with its value.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, process::Command};
use tests::{
    Cluster, Node, NodeSpec, Pod, PodSpec,
    Probe::{self, Ping, Tcp},
    Scrape, Table, binaries,
    bird::{self, Router},
    fabric,
    server::Listen,
    subnets,
    wait::{PATIENCE, wait_until},
};

/// What the router is to the nodes. They tell it each other's blocks, too, and must not stand in for each other: packets would go to and fro.
const TOR: &str = "
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: { name: tor-v4 }
spec: { peerIP: 192.0.2.254, asNumber: 65000, keepOriginalNextHop: true, FILTERS }
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: { name: tor-v6 }
spec: { peerIP: '2001:db8::fe', asNumber: 65000, keepOriginalNextHop: true }
";

/// n1 and n3 in one subnet, n2 in another; x/a on n1, x/b on n2, x/c on n3.
struct Routed {
    pods: BTreeMap<String, Pod>,
    nodes: Vec<Node>,
    router: Router,
    cluster: Cluster,
}

fn router() -> String {
    let mut text = "router id 192.0.2.254; protocol device { scan time 1; } protocol direct { ipv4; ipv6; }
        protocol kernel { scan time 1; ipv4 { export where source = RTS_BGP; }; }
        protocol kernel { scan time 1; ipv6 { export where source = RTS_BGP; }; }\n"
        .to_owned();
    for (number, is_far) in [(1, false), (2, true), (3, false)] {
        let [v4, v6] = if is_far { subnets::far(number) } else { fabric::addresses(number) };
        for (family, own, theirs) in [(4, "192.0.2.254", v4), (6, "2001:db8::fe", v6)] {
            text.push_str(&format!(
                "protocol bgp n{number}_{family} {{ local {own} as 65000; neighbor {theirs} as 64512; multihop;
                   connect retry time 1; connect delay time 1; error wait time 1, 2; passive on;
                   graceful restart on; ipv{family} {{ import all; export none; }}; }}\n"
            ));
        }
    }
    text
}

fn spec(number: u8) -> Result<NodeSpec> {
    let program = binaries::bird()?.display().to_string();
    Ok(NodeSpec::new(number).argument("--bgp").argument("on").argument("--bird").argument(&program))
}

fn node_object(cluster: &Cluster, number: u8, more: &str) -> Result<()> {
    let addresses = if number == 2 { subnets::far(number) } else { fabric::addresses(number) };
    let addresses: String = addresses.iter().map(|at| format!("{{ type: InternalIP, address: '{at}' }}, ")).collect();
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{ name: node{number}, labels: {{ number: n{number} }}, annotations: {{ {more} }} }}\nstatus: {{ addresses: [{addresses}] }}\n"
    );
    cluster.manifest(&format!("node-node{number}"), &text)
}

fn configuration(cluster: &Cluster, spec: &str) -> Result<()> {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{ name: default }}\nspec: {spec}\n"
    );
    cluster.manifest("bgp", &text)
}

/// With these specs, and what `prepare` writes before any agent starts.
fn of(
    specs: Vec<NodeSpec>,
    prepare: impl FnOnce(&Cluster) -> Result<()>,
    test: impl FnOnce(&mut Routed) -> Result<()>,
) -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    subnets::make_router(&cluster)?;
    cluster.namespace("x", &[("ns", "x")])?;
    cluster.manifest("tor", &TOR.replace("FILTERS", ""))?;
    prepare(&cluster)?;
    let router = Router::start(cluster.outside(), &cluster.directory().join("router"), &router())?;
    let mut nodes = Vec::new();
    for spec in specs {
        let number = spec.number;
        let mut node = cluster.node(spec)?;
        if number == 2 {
            subnets::move_away(node.namespace(), 2)?;
        } else {
            subnets::stay(node.namespace())?;
        }
        node_object(&cluster, number, "")?;
        node.start()?;
        nodes.push(node);
    }
    let mut routed = Routed { pods: BTreeMap::new(), nodes, router, cluster };
    for (index, id) in ["x/a", "x/b", "x/c"].iter().enumerate().take(routed.nodes.len()) {
        let pod = routed.nodes[index].pod(&routed.cluster, &PodSpec::new(id).listen(Listen::Sctp(80)))?;
        routed.pods.insert((*id).to_owned(), pod);
    }
    let result = test(&mut routed);
    let said = |node: &Node| {
        let log = fs::read_to_string(node.state_dir().join("bird/bird.log")).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(15).collect();
        let ask = |what| bird::ask(&node.state_dir().join("bird/bird.ctl"), what).unwrap_or_default();
        let answer = ask("show protocols") + &ask("show route all");
        format!("{}:\n{}\nBIRD:\n{}\n{answer}\n", node.name(), node.agent.log_tail(), tail.join("\n"))
    };
    let logs: String = routed.nodes.iter().map(said).collect();
    let sessions = routed.router.ask("show protocols").unwrap_or_default();
    result.with_context(|| format!("{logs}\nrouter:\n{sessions}"))
}

fn two(prepare: impl FnOnce(&Cluster) -> Result<()>, test: impl FnOnce(&mut Routed) -> Result<()>) -> Result<()> {
    of(vec![spec(1)?, spec(2)?], prepare, test)
}

fn three(prepare: impl FnOnce(&Cluster) -> Result<()>, test: impl FnOnce(&mut Routed) -> Result<()>) -> Result<()> {
    of(vec![spec(1)?, spec(2)?, spec(3)?], prepare, test)
}

fn status(node: &Node) -> Result<Value> {
    let output = node.tortie(&["node", "status", "--output", "json"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Type and info of each session, by the peer's address.
fn sessions(node: &Node) -> Result<BTreeMap<String, (String, String)>> {
    let said = status(node)?;
    let rows = said["bgp"]["sessions"].as_array().cloned().unwrap_or_default();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| (text(row, "peerAddress"), (text(row, "peerType"), text(row, "info")))).collect())
}

/// So many sessions, all of them established.
fn established(node: &Node, count: usize) -> Result<()> {
    wait_until(&format!("{count} sessions of {} are established", node.name()), PATIENCE, || {
        let all = sessions(node)?;
        Ok(all.len() == count && all.values().all(|(_, info)| info == "Established"))
    })
}

/// What BIRD has written into the kernel: destination and gateway.
fn learned(node: &Node) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for family in ["-4", "-6"] {
        let listed = node.namespace().ip_json(&format!("{family} route show proto bird"))?;
        for route in listed.as_array().context("a list")? {
            let text = |field: &str| route[field].as_str().unwrap_or_default().to_owned();
            all.insert(text("dst"), text("gateway"));
        }
    }
    Ok(all)
}

impl Routed {
    fn expect(&self, what: Probe, table: &str) -> Result<()> {
        let actors: Vec<_> = self.pods.values().map(Pod::actor).collect();
        Table::parse(table)?.expect(&actors, what)
    }

    /// x/a and x/b do, which are in two subnets.
    fn far_reach_each_other(&self) -> Result<()> {
        self.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")
    }

    /// Sessions with the router by both families, and with the other nodes.
    fn settled(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| established(node, 2 * self.nodes.len()))?;
        self.nodes.iter().take(2).try_for_each(|node| {
            wait_until("blocks of the other subnet are learned", PATIENCE, || Ok(learned(node)?.len() == 2))
        })
    }

    fn bird_of(&self, index: usize) -> Result<u32> {
        bird::of_agent(&self.nodes[index].state_dir()).context("BIRD of the agent runs")
    }
}

#[test]
fn pods_of_two_subnets_reach_each_other_by_a_mesh_of_both_families() -> Result<()> {
    three(
        |_| Ok(()),
        |t| {
            for node in &t.nodes {
                established(node, 6)?;
            }
            t.expect(Tcp(80), "x/a x/b x/c\n x/a - . .\n x/b . - .\n x/c . . -")?;
            t.expect(Ping, "x/a x/b x/c\n x/a - . .\n x/b . - .\n x/c . . -")?;
            let (far, near) = (learned(&t.nodes[0])?, t.nodes[0].routes()?);
            assert!(
                far.len() == 2 && far.values().all(|via| ["192.0.2.254", "2001:db8::fe"].contains(&&**via)),
                "{far:?}"
            );
            let via: Vec<_> = near.values().map(String::as_str).collect();
            assert!(
                via.contains(&"192.0.2.3") && via.contains(&"2001:db8::3"),
                "n3 is near, and the agent's to reach: {near:?}"
            );
            assert!(t.nodes[0].show("status")?["problems"].as_array().is_some_and(Vec::is_empty), "nothing is amiss");
            assert!(t.nodes[0].show("status")?["notInForce"].as_array().is_some_and(Vec::is_empty), "no route waits");
            said_of_a_mesh(&t.nodes[0])
        },
    )
}

/// As `calicoctl node status` says it, and by metrics.
fn said_of_a_mesh(node: &Node) -> Result<()> {
    let all = sessions(node)?;
    assert_eq!(all["198.51.100.2"].0, "node-to-node mesh");
    assert_eq!(all["2001:db8::3"].0, "node-to-node mesh");
    assert_eq!(all["192.0.2.254"].0, "global");
    let text = String::from_utf8(node.tortie(&["node", "status"])?.stdout)?;
    let row = text.lines().find(|line| line.starts_with("192.0.2.254")).context("a row")?;
    let words: Vec<_> = row.split_whitespace().collect();
    assert!(words[..3] == ["192.0.2.254", "global", "up"] && words.last() == Some(&"Established"), "{text}");
    for part in ["PEER-ADDRESS", "IPv4 BGP status", "IPv6 BGP status", "FelixConfiguration"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(node.tortie(&["node", "status", "--output", "yaml"])?.status.success());
    wait_until("metrics count them", PATIENCE, || {
        let scraped = Scrape::of(node.namespace(), "127.0.0.1:9091".parse()?)?;
        let established = scraped.value("tortie_bgp_sessions{family=\"IPv4\",state=\"established\"}")?;
        Ok(established == 3.0 && scraped.value("tortie_bird_running")? == 1.0)
    })?;
    let mode = fs::metadata(node.state_dir().join("bird/bird.conf"))?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it may hold passwords");
    Ok(())
}

#[test]
fn nodes_learn_from_a_reflector_without_a_mesh() -> Result<()> {
    let prepare = |cluster: &Cluster| {
        configuration(cluster, "{ nodeToNodeMeshEnabled: false }")?;
        cluster.manifest(
            "reflected",
            "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: { name: reflected }\nspec: { nodeSelector: number != 'n3', peerSelector: number == 'n3' }\n",
        )
    };
    three(prepare, |t| {
        node_object(&t.cluster, 3, "projectcalico.org/RouteReflectorClusterID: 244.0.0.1")?;
        established(&t.nodes[0], 4)?;
        established(&t.nodes[1], 4)?;
        let all = sessions(&t.nodes[0])?;
        assert!(!all.contains_key("198.51.100.2") && all["192.0.2.3"].0 == "node specific", "{all:?}");
        t.far_reach_each_other()?;
        wait_until("n2 knows blocks of n1 and n3, by both families", PATIENCE, || Ok(learned(&t.nodes[1])?.len() == 4))
    })
}

#[test]
fn a_filter_keeps_from_the_router_what_it_refuses_and_bird_is_not_started_again_for_it() -> Result<()> {
    two(
        |_| Ok(()),
        |t| {
            t.settled()?;
            let pid = t.bird_of(0)?;
            let block = t.nodes[0].routes()?.into_iter().find(|(to, via)| via == "blackhole" && !to.contains(':'));
            let block = block.context("a block of n1")?.0;
            let known = |t: &Routed| Ok(t.router.ask("show route protocol n1_4")?.contains(&block));
            wait_until("the router knows n1's block", PATIENCE, || known(t))?;
            t.cluster.manifest("tor", &TOR.replace("FILTERS", "filters: [close]"))?;
            wait_until("a filter that is not there closes the session, and is named", PATIENCE, || {
                let said = t.nodes[0].show("status")?["problems"].to_string();
                Ok(said.contains("BGPPeer tor-v4: there is no BGPFilter close") && !known(t)?)
            })?;
            let filter = |rule: &str| {
                let text = format!(
                    "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {{ name: close }}\nspec: {{ exportV4: [{rule}] }}\n"
                );
                t.cluster.manifest("filter", &text)
            };
            filter("{ cidr: 192.168.0.0/16, matchOperator: In, action: Reject }")?;
            wait_until("the router knows n1's block again", PATIENCE, || known(t))?;
            filter("{ cidr: 10.65.0.0/16, matchOperator: In, prefixLength: { min: 26 }, action: Reject }")?;
            wait_until("the router is not told it any more", PATIENCE, || Ok(!known(t)?))?;
            assert_eq!(t.bird_of(0)?, pid);
            Ok(())
        },
    )
}

#[test]
fn an_address_of_a_service_is_told_by_the_node_that_has_a_backend_and_reached_from_outside() -> Result<()> {
    let prepare = |cluster: &Cluster| configuration(cluster, "{ serviceExternalIPs: [{ cidr: 203.0.113.0/24 }] }");
    two(prepare, |t| {
        let backend = t.pods["x/b"].address();
        t.cluster.manifest(
            "service",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{ name: web, namespace: x }}\nspec: {{ type: LoadBalancer, clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], externalIPs: [203.0.113.80], externalTrafficPolicy: Local, ports: [{{ port: 80, protocol: TCP, nodePort: 30080 }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: web-1, namespace: x, labels: {{ kubernetes.io/service-name: web }} }}\naddressType: IPv4\nendpoints: [{{ addresses: ['{backend}'], nodeName: node2, conditions: {{ ready: true }} }}]\nports: [{{ name: '', port: 80, protocol: TCP }}]\n"
            ),
        )?;
        wait_until("the router goes to n2 alone", PATIENCE, || {
            let routes = t.cluster.outside().ip_json("-4 route show 203.0.113.80")?;
            Ok(routes[0]["gateway"] == "198.51.100.2")
        })?;
        let nets = t.router.ask("show route 203.0.113.0/24")?;
        assert!(nets.contains("n1_4") && nets.contains("n2_4"), "all nodes tell the network: {nets}");
        assert!(!learned(&t.nodes[0])?.contains_key("203.0.113.80"), "no packet of n1 goes elsewhere for it");
        let outcome = tests::probe::probe(t.cluster.outside(), "203.0.113.80".parse()?, Tcp(80))?;
        assert_eq!(outcome, tests::Outcome::Allowed);
        Ok(())
    })
}

#[test]
fn routes_outlive_a_link_that_is_lost_for_a_while() -> Result<()> {
    two(
        |_| Ok(()),
        |t| {
            t.settled()?;
            t.far_reach_each_other()?;
            t.cluster.outside().ip(&["link set uplink2 down"])?;
            t.expect(Tcp(80), "x/b\n x/a X")?;
            t.cluster.outside().ip(&["link set uplink2 up"])?;
            t.far_reach_each_other()?;
            t.settled()
        },
    )
}

#[test]
fn agt_4_routes_and_sessions_outlive_the_agent_and_the_next_one_takes_bird_over() -> Result<()> {
    two(
        |_| Ok(()),
        |t| {
            t.settled()?;
            let (pid, before) = (t.bird_of(0)?, learned(&t.nodes[0])?);
            t.nodes[0].agent.kill()?;
            t.far_reach_each_other()?;
            assert_eq!((t.bird_of(0)?, learned(&t.nodes[0])?), (pid, before.clone()));
            t.nodes[0].start()?;
            t.settled()?;
            assert_eq!((t.bird_of(0)?, learned(&t.nodes[0])?), (pid, before));
            assert_eq!(status(&t.nodes[0])?["bgp"]["restarts"], 0);
            t.far_reach_each_other()
        },
    )
}

#[test]
fn a_bird_that_is_killed_comes_back_and_its_routes_stay_meanwhile() -> Result<()> {
    two(
        |_| Ok(()),
        |t| {
            t.settled()?;
            let (pid, before) = (t.bird_of(0)?, learned(&t.nodes[0])?);
            bird::kill_of_agent(&t.nodes[0].state_dir());
            wait_until("that is named", PATIENCE, || {
                Ok(t.nodes[0].agent.log().contains("has ended, and is started again"))
            })?;
            assert_eq!(learned(&t.nodes[0])?, before);
            wait_until("another runs", PATIENCE, || Ok(t.bird_of(0).is_ok_and(|now| now != pid)))?;
            t.settled()?;
            t.far_reach_each_other()?;
            assert_eq!(status(&t.nodes[0])?["bgp"]["restarts"], 1);
            assert_eq!(learned(&t.nodes[0])?, before);
            Ok(())
        },
    )
}

#[test]
fn without_a_bird_of_version_2_that_is_named_and_everything_else_goes_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let old = folder.path().join("bird");
    fs::write(&old, "#!/bin/sh\necho BIRD version 1.6.8 >&2\n")?;
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755))?;
    let absent = folder.path().join("nothing");
    let with = |number, program: &std::path::Path| {
        NodeSpec::new(number)
            .argument("--bgp")
            .argument("on")
            .argument("--bird")
            .argument(&program.display().to_string())
    };
    of(
        vec![with(1, &absent), with(3, &old)],
        |_| Ok(()),
        |t| {
            for (node, why) in t.nodes.iter().zip(["cannot be started", "is of version 1.6.8: BIRD 2 is needed"]) {
                wait_until("what is missing is named", PATIENCE, || {
                    let said = status(node)?["bgp"]["trouble"].to_string();
                    Ok(said.contains(why) && node.show("status")?["problems"].to_string().contains(why))
                })?;
                assert!(String::from_utf8(node.tortie(&["node", "status"])?.stdout)?.contains(why));
            }
            t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")
        },
    )
}

#[test]
fn cleanup_ends_bird_and_takes_the_routes_that_it_has_learned_and_no_others() -> Result<()> {
    two(
        |_| Ok(()),
        |t| {
            t.settled()?;
            t.nodes[0].namespace().ip(&["route add 198.18.0.0/24 via 192.0.2.254"])?;
            t.nodes[0].agent.stop()?;
            assert!(t.bird_of(0).is_ok(), "it outlives its agent");
            let done = t.nodes[0].cleanup()?;
            let said = String::from_utf8_lossy(&done.stdout).into_owned();
            assert!(done.status.success() && said.contains("removed  BIRD"), "{said}{done:?}");
            assert!(t.bird_of(0).is_err() && !t.nodes[0].state_dir().join("bird").exists());
            assert!(learned(&t.nodes[0])?.is_empty());
            let kept = t.nodes[0].namespace().ip_json("-4 route show 198.18.0.0/24")?;
            assert_eq!(kept[0]["gateway"], "192.0.2.254");
            assert!(t.bird_of(1).is_ok(), "the other node's is not ours to end");
            Ok(())
        },
    )
}

#[test]
fn bird_takes_what_is_written_of_every_kind_of_object() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("bgp"))?;
    fs::write(folder.path().join("bgp/tor"), "open sesame\n")?;
    let passwords = folder.path().display().to_string();
    super::need_root()?;
    let cluster = Cluster::create()?;
    configuration(
        &cluster,
        "{ listenPort: 1790, bindMode: NodeIP, logSeverityScreen: Debug, ignoredInterfaces: [docker*], nodeMeshMaxRestartTime: 60s, \
           serviceClusterIPs: [{ cidr: 10.96.0.0/12 }], communities: [{ name: a, value: '1:2' }], \
           prefixAdvertisements: [{ cidr: 10.65.0.0/16, communities: [a, '1:2:3'] }, { cidr: 'fd00:65::/64', communities: [a] }] }",
    )?;
    let name = "a".repeat(200);
    let rules = |net: &str| {
        format!(
            "[{{ cidr: '{net}', matchOperator: In, source: RemotePeers, interface: 'eth*', peerType: iBGP, communities: {{ values: ['1:2:3'] }}, asPathPrefix: [1, 2], priority: 512, action: Accept, operations: [{{ addCommunity: {{ value: '1:2' }} }}, {{ prependASPath: {{ prefix: [7, 8] }} }}, {{ setPriority: {{ value: 100 }} }}] }}, {{ cidr: '{net}', matchOperator: NotEqual, action: Reject }}, {{ cidr: '{net}', matchOperator: NotIn, prefixLength: {{ min: 30 }}, action: Reject }}, {{ cidr: '{net}', matchOperator: Equal, action: Accept }}]"
        )
    };
    let [v4, v6] = [rules("10.0.0.0/8"), rules("fd00::/8")];
    cluster.manifest("filter", &format!("apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {{ name: {name} }}\nspec: {{ importV4: {v4}, exportV4: {v4}, importV6: {v6}, exportV6: {v6} }}\n"))?;
    let peer = |name: &str, spec: &str| {
        cluster.manifest(
            name,
            &format!(
                "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{ name: {name} }}\nspec: {{ {spec} }}\n"
            ),
        )
    };
    peer(
        "p1",
        &format!(
            "peerIP: '203.0.113.9:1179', asNumber: 65000, localASNumber: 64999, nextHopMode: Self, maxRestartTime: 30s, keepaliveTime: 10s, numAllowedLocalASNumbers: 2, ttlSecurity: 1, reachableBy: 192.0.2.254, filters: [{name}], password: {{ secretKeyRef: {{ name: bgp, key: tor }} }}"
        ),
    )?;
    peer(
        "p2",
        &format!(
            "peerIP: '[2001:db8::9]:1179', asNumber: '1.10', sourceAddress: None, keepOriginalNextHop: true, filters: [{name}]"
        ),
    )?;
    peer("p3", "peerSelector: all()")?;
    node_object(&cluster, 2, "")?;
    node_object(
        &cluster,
        1,
        "projectcalico.org/RouteReflectorClusterID: 244.0.0.1, projectcalico.org/ASNumber: '64600'",
    )?;
    let mut node = cluster.node(spec(1)?.argument("--bgp-passwords").argument(&passwords))?;
    node.start()?;
    wait_until("BIRD has it", PATIENCE, || {
        let said = status(&node)?;
        Ok(said["bgp"]["running"] == true && said["bgp"]["sessions"].as_array().is_some_and(|all| all.len() == 4))
    })
    .with_context(|| format!("{:?}\n{}", status(&node), node.agent.log_tail()))?;
    let said = status(&node)?;
    ensure!(
        said["bgp"]["trouble"].is_null() && said["bgp"]["problems"].as_array().is_some_and(Vec::is_empty),
        "{said}"
    );
    let file = node.state_dir().join("bird/bird.conf");
    let checked = Command::new(binaries::bird()?).arg("-p").arg("-c").arg(&file).output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    ensure!(fs::read_to_string(&file)?.contains("password \"open sesame\";"), "the password is there");
    ensure!(!node.agent.log().contains("open sesame") && !said.to_string().contains("open sesame"), "and nowhere else");
    Ok(())
}
