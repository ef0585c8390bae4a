//! What a configuration says of each thing that objects ask for.
//! In: facts. Out: lines, sessions, problems.
//! Invariant: that BIRD takes such text is asked of BIRD by `tests/system/bgp.rs`.
//! Never: compares whole files.

use super::{answer, *};
use model::{
    AsNumber, BgpConfiguration, BgpFilter, BgpLog, BgpOperation, BgpPeer, BgpRule, Cidr, Community, EndpointSlice,
    EndpointSliceId, IpPool, Labels, NetMatch, NextHop, Node, NodeBgp, Password, PeerNodes, PeerWith, SecretKey,
    Selector, Service, ServiceId, ServiceKind, SliceEndpoint, TrafficPolicy, Wrapper, Wrapping,
};
use std::net::IpAddr;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> Cidr {
    text.parse().expect("a network")
}

fn node(name: &str, addresses: &[&str], labels: &[(&str, &str)]) -> Node {
    Node {
        name: name.into(),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        labels: labels.iter().copied().collect(),
        pod_cidrs: Vec::new(),
        vteps: Default::default(),
        bgp: NodeBgp::default(),
        told: Default::default(),
    }
}

/// n1 here, n2 near, n3 far; a pool without encapsulation, one with.
fn facts() -> Facts {
    let nodes = [
        node("n1", &["192.0.2.1", "2001:db8::1"], &[("rack", "a")]),
        node("n2", &["192.0.2.2", "2001:db8::2"], &[("rack", "b")]),
        node("n3", &["198.51.100.3"], &[("rack", "a"), ("far", "")]),
    ];
    let wrapped = IpPool {
        wrapping: Wrapping::CrossSubnet,
        wrapper: Wrapper::Vxlan,
        ..IpPool::of_pods("wrapped", net("10.66.0.0/16"), 26)
    };
    Facts {
        node: "n1".into(),
        nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
        pools: vec![IpPool::of_pods("plain", net("10.65.0.0/16"), 26), wrapped],
        blocks: vec![net("10.65.0.0/26")],
        networks: vec![net("192.0.2.0/24"), net("2001:db8::/64")],
        log: "/state/bird/log".into(),
        ..Facts::default()
    }
}

fn cluster(change: impl FnOnce(&mut BgpConfiguration)) -> Facts {
    let mut configuration = BgpConfiguration { name: "default".into(), ..BgpConfiguration::default() };
    change(&mut configuration);
    Facts { configurations: [("default".into(), configuration)].into(), ..facts() }
}

fn peer(name: &str, with: &str) -> BgpPeer {
    BgpPeer {
        name: name.into(),
        nodes: PeerNodes::All,
        with: PeerWith::Address(address(with), None, AsNumber(65000)),
        local_as: None,
        password: None,
        any_source: false,
        next_hop: NextHop::Auto,
        restart: None,
        keepalive: None,
        allowed_local_as: 0,
        ttl_security: None,
        reachable_by: None,
        filters: Vec::new(),
        reverses: true,
    }
}

fn with_peers(peers: impl IntoIterator<Item = BgpPeer>) -> Facts {
    let mut facts = cluster(|cluster| cluster.mesh = Some(false));
    facts.peers = peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
    facts
}

fn selector(text: &str) -> Selector {
    text.parse().expect("a selector")
}

/// The text of one protocol, function or filter.
fn part(written: &Written, head: &str) -> String {
    let mut lines = written.text.lines().skip_while(|line| !line.starts_with(head));
    let first = lines.next().unwrap_or_else(|| panic!("no {head} in\n{}", written.text));
    std::iter::once(first)
        .chain(lines.take_while(|line| !line.starts_with('}')))
        .map(|line| format!("{}\n", line.trim()))
        .collect()
}

fn sessions(written: &Written) -> Vec<&str> {
    let heads = written.text.lines().filter_map(|line| line.strip_prefix("protocol bgp '"));
    heads.filter_map(|rest| rest.split('\'').next()).collect()
}

#[test]
fn nodes_speak_with_all_others_unless_told_otherwise_and_the_lesser_text_begins() {
    let written = configuration(&facts());
    assert_eq!(sessions(&written), ["Mesh_192_0_2_2", "Mesh_198_51_100_3", "Mesh_2001_db8__2"]);
    let session = part(&written, "protocol bgp 'Mesh_192_0_2_2'");
    assert!(session.contains("local 192.0.2.1 as 64512;\nneighbor 192.0.2.2 as 64512;\npassive on;"), "{session}");
    assert!(written.text.contains("router id 192.0.2.1;"));
    let other = configuration(&Facts { node: "n2".into(), ..facts() });
    assert!(!part(&other, "protocol bgp 'Mesh_192_0_2_1'").contains("passive"));
    assert!(sessions(&configuration(&cluster(|cluster| cluster.mesh = Some(false)))).is_empty());
    assert_eq!(written.problems, [""; 0]);
    assert_eq!(written, configuration(&facts()), "the same facts are the same text");
}

#[test]
fn a_node_that_nobody_described_speaks_with_nobody_and_that_is_said() {
    let written = configuration(&Facts { node: "n9".into(), ..facts() });
    assert!(sessions(&written).is_empty());
    assert_eq!(written.problems, ["Node n9: nobody has described it; it speaks BGP with nobody"]);
}

#[test]
fn numbers_ports_addresses_and_restart_times_are_the_nodes_or_the_clusters() {
    let mut facts = cluster(|cluster| {
        (cluster.as_number, cluster.listen_port) = (Some(AsNumber(64600)), Some(1790));
        (cluster.mesh_restart, cluster.binds, cluster.log) = (Some(60), true, Some(BgpLog::All));
        cluster.ignored_interfaces = vec!["docker*".into(), "bad\"".into()];
    });
    let own = BgpConfiguration { name: "node.n2".into(), listen_port: Some(1791), ..BgpConfiguration::default() };
    facts.configurations.insert(own.name.clone(), own);
    let second = facts.nodes.get_mut(&"n2".into()).expect("n2");
    second.bgp = NodeBgp { as_number: Some(AsNumber(64700)), cluster_id: None };
    second.told.v4 = "192.0.2.22/24".parse().ok();
    let written = configuration(&facts);
    let session = part(&written, "protocol bgp 'Mesh_192_0_2_22'");
    for line in [
        "local 192.0.2.1 port 1790 as 64600;",
        "neighbor 192.0.2.22 port 1791 as 64700;",
        "strict bind on;",
        "graceful restart time 60;",
    ] {
        assert!(session.contains(line), "{line} in\n{session}");
    }
    assert!(written.text.contains("debug protocols all;"));
    assert!(written.text.contains("interface -\"docker*\", -\"cali*\""));
    assert!(written.problems[0].contains("bad"), "{:?}", written.problems);
}

#[test]
fn own_blocks_are_told_as_a_whole_and_pools_that_are_not_to_be_told_are_not() {
    let mut facts = facts();
    facts.pools.push(IpPool { untold: true, ..IpPool::of_pods("hidden", net("10.67.0.0/16"), 26) });
    let written = configuration(&facts);
    assert!(part(&written, "protocol static own4").contains("route 10.65.0.0/26 blackhole;"));
    let told = part(&written, "function told4");
    let at = |text: &str| told.find(text).unwrap_or_else(|| panic!("no {text} in\n{told}"));
    assert!(at("if net ~ [ 10.67.0.0/16+ ] then reject;") < at("if net = 10.65.0.0/26 then accept;"));
    assert!(at("if net = 10.65.0.0/26 then accept;") < at("if net ~ [ 10.65.0.0/26+ ] then reject;"));
    assert!(at("if net ~ [ 10.65.0.0/26+ ] then reject;") < at("if net ~ [ 10.65.0.0/16+ ] then accept;"));
    assert!(told.trim_end().ends_with("reject;"), "nothing else is told: {told}");
}

#[test]
fn the_kernel_gets_no_way_that_the_agent_makes_itself() {
    let written = configuration(&facts());
    let filter = part(&written, "filter to_kernel4");
    for line in [
        "if source != RTS_BGP then reject;",
        "if net ~ [ 10.65.0.0/16+ ] && bgp_next_hop ~ [ 192.0.2.2 ] then reject;",
        "if net ~ [ 10.66.0.0/16+ ] then reject;",
    ] {
        assert!(filter.contains(line), "{line} in\n{filter}");
    }
    assert!(part(&written, "filter from_kernel4").contains("if krt_source = 85 then reject;"));
    let mut speaks = facts();
    let second = speaks.nodes.get_mut(&"n2".into()).expect("n2");
    second.told.v4 = "198.51.100.22/24".parse().ok();
    let filter = part(&configuration(&speaks), "filter to_kernel4");
    assert!(filter.contains("bgp_next_hop ~ [ 198.51.100.22 ]"), "n2 is near, from wherever it speaks: {filter}");
    let all = configuration(&Facts { leaves_routes: true, ..facts() });
    assert!(!part(&all, "filter to_kernel4").contains("bgp_next_hop"), "somebody else has to make those, too");
    let none = configuration(&cluster(|cluster| cluster.programs_unwrapped = Some(false)));
    assert!(part(&none, "filter to_kernel4").contains("if net ~ [ 10.65.0.0/16+ ] then reject;"));
}

#[test]
fn a_peer_has_what_its_object_says() {
    let secret = SecretKey { name: "bgp".into(), key: "tor".into() };
    let mut facts = with_peers([BgpPeer {
        with: PeerWith::Address(address("203.0.113.9"), Some(1179), AsNumber(65000)),
        local_as: Some(AsNumber(64999)),
        password: Some(secret.clone()),
        any_source: true,
        next_hop: NextHop::Own,
        restart: Some(30),
        keepalive: Some(10),
        allowed_local_as: 2,
        ttl_security: Some(1),
        reachable_by: Some(address("192.0.2.254")),
        ..peer("tor", "203.0.113.9")
    }]);
    facts.passwords = [(secret, Password::of("open sesame").ok_or_else(String::new))].into();
    let written = configuration(&facts);
    let session = part(&written, "protocol bgp 'Global_203_0_113_9_port_1179'");
    for line in [
        "local as 64999;",
        "neighbor 203.0.113.9 port 1179 as 65000;",
        "multihop 1;\nttl security on;",
        "graceful restart time 30;",
        "keepalive time 10;",
        "password \"open sesame\";",
        "allow local as 2;",
        "next hop self;",
    ] {
        assert!(session.contains(line), "{line} in\n{session}");
    }
    assert!(part(&written, "protocol static gateways4").contains("route 203.0.113.9/32 via 192.0.2.254;"));
    assert_eq!(written.problems, [""; 0]);
}

#[test]
fn a_password_that_cannot_be_had_means_no_session_and_is_named_without_being_said() {
    let secret = SecretKey { name: "bgp".into(), key: "tor".into() };
    let mut facts = with_peers([BgpPeer { password: Some(secret.clone()), ..peer("tor", "203.0.113.9") }]);
    let written = configuration(&facts);
    assert!(sessions(&written).is_empty());
    assert!(written.problems[0].starts_with("BGPPeer tor: its password, key tor of Secret bgp, is not there"));
    facts.passwords = [(secret.clone(), Err("may not be read".to_owned()))].into();
    assert!(configuration(&facts).problems[0].contains("of Secret bgp, may not be read; there is no session"));
    facts.passwords = [(secret, Password::of("hush\"; export all").ok_or_else(String::new))].into();
    assert!(!format!("{facts:?}").contains("hush"), "nor is it said where values are shown");
    let written = configuration(&facts);
    assert!(sessions(&written).is_empty() && !written.text.contains("hush"));
    assert!(written.problems[0].contains("a quote") && !written.problems[0].contains("hush"));
    let mesh = cluster(|cluster| cluster.mesh_password = Some(SecretKey { name: "a".into(), key: "b".into() }));
    assert!(sessions(&configuration(&mesh)).is_empty());
}

#[test]
fn a_node_asks_for_passwords_of_its_own_sessions_alone() {
    let secret = |name: &str| SecretKey { name: name.into(), key: "k".into() };
    let of = |nodes, name: &str| BgpPeer { nodes, password: Some(secret(name)), ..peer(name, "203.0.113.9") };
    let mut facts = with_peers([
        of(PeerNodes::Named("n1".into()), "own"),
        of(PeerNodes::Named("n2".into()), "another"),
        of(PeerNodes::Selected(selector("rack == 'a'")), "selected"),
        peer("open", "203.0.113.10"),
    ]);
    assert_eq!(secrets(&facts), [secret("own"), secret("selected")].into());
    let mesh = BgpConfiguration { mesh_password: Some(secret("mesh")), ..BgpConfiguration::default() };
    facts.configurations.insert("default".into(), BgpConfiguration { name: "default".into(), ..mesh.clone() });
    assert!(secrets(&facts).contains(&secret("mesh")));
    let off = BgpConfiguration { name: "default".into(), mesh: Some(false), ..mesh };
    facts.configurations.insert("default".into(), off);
    assert!(!secrets(&facts).contains(&secret("mesh")), "nobody speaks in the mesh");
}

#[test]
fn peers_are_for_all_nodes_one_or_those_with_labels() {
    let of = |nodes| with_peers([BgpPeer { nodes, ..peer("tor", "203.0.113.9") }]);
    let found = |nodes| configuration(&of(nodes));
    assert_eq!(sessions(&found(PeerNodes::Named("n1".into()))), ["Node_203_0_113_9"]);
    assert_eq!(sessions(&found(PeerNodes::Selected(selector("rack == 'a'")))), ["Node_203_0_113_9"]);
    assert!(sessions(&found(PeerNodes::Named("n2".into()))).is_empty());
    assert!(sessions(&found(PeerNodes::Selected(selector("rack == 'b'")))).is_empty());
}

#[test]
fn nodes_that_others_select_speak_back_unless_that_is_left_to_an_object() {
    let object = |reverses| BgpPeer {
        nodes: PeerNodes::Selected(selector("rack == 'b'")),
        with: PeerWith::Nodes(selector("rack == 'a'")),
        reverses,
        ..peer("racks", "0.0.0.0")
    };
    let from = |node: &str, reverses| configuration(&Facts { node: node.into(), ..with_peers([object(reverses)]) });
    assert_eq!(sessions(&from("n2", true)), ["Node_192_0_2_1", "Node_198_51_100_3", "Node_2001_db8__1"]);
    assert_eq!(sessions(&from("n1", true)), ["Node_192_0_2_2", "Node_2001_db8__2"]);
    assert!(sessions(&from("n1", false)).is_empty());
}

#[test]
fn one_address_is_spoken_with_once_by_the_object_that_is_nearest() {
    let mut facts = with_peers([
        peer("all", "192.0.2.2"),
        BgpPeer { nodes: PeerNodes::Named("n1".into()), ..peer("own", "192.0.2.2") },
    ]);
    facts.configurations.clear();
    let written = configuration(&facts);
    assert_eq!(sessions(&written), ["Node_192_0_2_2", "Mesh_198_51_100_3", "Mesh_2001_db8__2"]);
    assert_eq!(written.problems, ["BGPPeer all: 192.0.2.2 is spoken with as BGPPeer own asks"]);
}

#[test]
fn a_reflector_is_not_in_the_mesh_and_its_clients_are_those_of_no_same_cluster() {
    let mut facts = facts();
    facts.nodes.get_mut(&"n1".into()).expect("n1").bgp.cluster_id = Some([244, 0, 0, 1].into());
    let to_all = BgpPeer { with: PeerWith::Nodes(Selector::All), ..peer("rr", "0.0.0.0") };
    facts.peers = [("rr".to_owned(), to_all)].into();
    let written = configuration(&facts);
    assert_eq!(sessions(&written), ["Global_192_0_2_2", "Global_198_51_100_3", "Global_2001_db8__2"]);
    assert!(part(&written, "protocol bgp 'Global_192_0_2_2'").contains("rr client;\nrr cluster id 244.0.0.1;"));
    let other = configuration(&Facts { node: "n3".into(), ..facts.clone() });
    assert!(!part(&other, "protocol bgp 'Global_192_0_2_1'").contains("rr client"));
    facts.nodes.get_mut(&"n2".into()).expect("n2").bgp.cluster_id = Some([244, 0, 0, 1].into());
    assert!(!part(&configuration(&facts), "protocol bgp 'Global_192_0_2_2'").contains("rr client"));
}

#[test]
fn a_filters_rules_are_asked_in_order_with_all_that_they_say() {
    let rule = BgpRule::default();
    let by = |net: &str, within, negated, lengths| {
        Some(NetMatch { net: net.parse().expect("a network"), within, negated, lengths })
    };
    let export_v4 = vec![
        BgpRule { net: by("10.0.0.0/8", true, false, None), accepts: true, ..rule.clone() },
        BgpRule { net: by("10.0.0.0/8", true, true, Some((16, 24))), is_learned: true, ..rule.clone() },
        BgpRule { net: by("10.1.0.0/16", false, true, None), interface: Some("eth*".into()), ..rule.clone() },
        BgpRule { is_internal: Some(false), community: Some(Community::Standard(1, 2)), ..rule.clone() },
        BgpRule { path: vec![AsNumber(1), AsNumber(2)], priority: Some(512), ..rule.clone() },
        BgpRule {
            community: Some(Community::Large(1, 2, 3)),
            accepts: true,
            operations: vec![
                BgpOperation::Add(Community::Standard(3, 4)),
                BgpOperation::Prepend(vec![AsNumber(7), AsNumber(8)]),
                BgpOperation::Priority(100),
            ],
            ..rule.clone()
        },
        rule.clone(),
    ];
    let filter = BgpFilter { name: "f".into(), export_v4, ..BgpFilter::default() };
    let mut facts = with_peers([BgpPeer { filters: vec!["f".into()], ..peer("tor", "203.0.113.9") }]);
    facts.filters = [("f".to_owned(), filter)].into();
    let written = configuration(&facts);
    assert_eq!(
        part(&written, "function 'filter_f_export_v4'").lines().skip(1).collect::<Vec<_>>(),
        [
            "if (net ~ [ 10.0.0.0/8+ ]) then { accept; }",
            "if (net !~ [ 10.0.0.0/8{16,24} ]) && (source = RTS_BGP) then { reject; }",
            "if (net !~ [ 10.1.0.0/16 ]) && (ifname ~ \"eth*\") then { reject; }",
            "if (!same_as) && ((1, 2) ~ bgp_community) then { reject; }",
            "if (bgp_path ~ [= 1 2 * =]) && (bgp_local_pref = 2147483135) then { reject; }",
            "if ((1, 2, 3) ~ bgp_large_community) then { bgp_community.add((3, 4)); bgp_path.prepend(8); bgp_path.prepend(7); bgp_local_pref = 2147483547; accept; }",
            "reject;",
        ]
    );
    let session = part(&written, "protocol bgp 'Global_203_0_113_9'");
    assert!(session.contains("'filter_f_export_v4'(false);\ntold4(false);"), "{session}");
    assert!(!session.contains("import_v4"), "it says nothing of what is heard");
}

#[test]
fn a_filter_that_is_not_there_closes_the_session_and_is_named() {
    let written = configuration(&with_peers([BgpPeer { filters: vec!["gone".into()], ..peer("tor", "203.0.113.9") }]));
    let session = part(&written, "protocol bgp 'Global_203_0_113_9'");
    assert!(session.contains("import none;\nexport none;"), "{session}");
    assert!(written.problems[0].starts_with("BGPPeer tor: there is no BGPFilter gone"));
}

fn service(kind: ServiceKind, external: TrafficPolicy) -> Service {
    let id = ServiceId { namespace: "x".into(), name: "web".into() };
    Service {
        cluster_ips: vec![address("10.96.0.7")],
        external_ips: vec![address("203.0.113.80")],
        load_balancer: vec![address("198.18.0.7")],
        external,
        ..Service::bare(id, kind)
    }
}

fn behind(node: &str, ready: bool) -> EndpointSlice {
    let end = SliceEndpoint { node: Some(node.into()), ready, ..SliceEndpoint::ready_at(address("10.65.0.9")) };
    EndpointSlice {
        id: EndpointSliceId { namespace: "x".into(), name: "web-1".into() },
        service: Some(ServiceId { namespace: "x".into(), name: "web".into() }),
        endpoints: [end].into(),
        ports: [].into(),
        unproxied: false,
    }
}

/// What is told beside the node's block.
fn told(external: TrafficPolicy, slice: EndpointSlice, change: impl FnOnce(&mut BgpConfiguration)) -> Vec<String> {
    let mut facts = cluster(|cluster| {
        cluster.cluster_ips = vec![net("10.96.0.0/12")];
        cluster.external_ips = vec![net("203.0.113.0/24")];
        cluster.load_balancer_ips = vec![net("198.18.0.0/16")];
        change(cluster);
    });
    facts.services = vec![service(ServiceKind::LoadBalancer, external).into()];
    facts.slices = vec![slice.into()];
    let text = part(&configuration(&facts), "protocol static own4");
    let routes = text.lines().filter_map(|line| line.strip_prefix("route ")?.strip_suffix(" blackhole;"));
    routes.filter(|route| *route != "10.65.0.0/26").map(str::to_owned).collect()
}

#[test]
fn networks_of_services_are_told_by_all_and_addresses_by_nodes_that_have_backends() {
    let nets = ["10.96.0.0/12", "198.18.0.0/16", "203.0.113.0/24"];
    let all = ["10.96.0.0/12", "10.96.0.7/32", "198.18.0.0/16", "198.18.0.7/32", "203.0.113.0/24", "203.0.113.80/32"];
    assert_eq!(told(TrafficPolicy::Cluster, behind("n1", true), |_| {}), nets);
    assert_eq!(told(TrafficPolicy::Local, behind("n1", true), |_| {}), all);
    assert_eq!(told(TrafficPolicy::Local, behind("n2", true), |_| {}), nets, "they stand elsewhere");
    assert_eq!(told(TrafficPolicy::Local, behind("n1", false), |_| {}), nets, "nobody is ready");
    let split = told(TrafficPolicy::Cluster, behind("n2", true), |cluster| cluster.aggregates = Some(false));
    assert!(!split.contains(&nets[1].to_owned()) && split.contains(&"198.18.0.7/32".to_owned()), "{split:?}");
    let one = told(TrafficPolicy::Cluster, behind("n2", true), |cluster| {
        cluster.external_ips = vec![net("203.0.113.80/32")];
        (cluster.cluster_ips, cluster.load_balancer_ips) = (Vec::new(), Vec::new());
    });
    assert_eq!(one, ["203.0.113.80/32"], "an address that is given as a network of its own is told by all");
    let none = told(TrafficPolicy::Local, behind("n1", true), |cluster| *cluster = BgpConfiguration::default());
    assert!(none.is_empty(), "{none:?}");
}

#[test]
fn a_node_of_the_label_that_excludes_it_tells_no_services() {
    let mut facts = cluster(|cluster| cluster.cluster_ips = vec![net("10.96.0.0/12")]);
    let own = facts.nodes.get_mut(&"n1".into()).expect("n1");
    own.labels = [("node.kubernetes.io/exclude-from-external-load-balancers", "")].into_iter().collect::<Labels>();
    assert!(!part(&configuration(&facts), "protocol static own4").contains("10.96.0.0/12"));
    let kernel = part(&configuration(&facts), "filter to_kernel4");
    assert!(
        kernel.contains("if net ~ [ 10.96.0.0/12+ ] then reject;"),
        "nor do packets go by what others tell: {kernel}"
    );
}

#[test]
fn communities_go_with_what_is_told_of_their_networks() {
    let facts = cluster(|cluster| {
        cluster.advertisements =
            vec![(net("10.65.0.0/16"), vec![Community::Standard(64512, 7), Community::Large(1, 2, 3)])];
    });
    let text = part(&configuration(&facts), "function communities4");
    let line = "if net ~ [ 10.65.0.0/16+ ] then { bgp_community.add((64512, 7)); bgp_large_community.add((1, 2, 3)); }";
    assert!(text.contains(line), "{text}");
}

#[test]
fn answers_of_bird_are_read_as_calicoctl_shows_them() {
    let text = "2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     2026-11-27 20:00:01
1006-
1002-Mesh_192_0_2_2 BGP        ---        up     2026-11-27 20:01:02  Established
1006-  Description:    node n2
   BGP state:          Established
     Neighbor address: 192.0.2.2
     Neighbor AS:      64512
1002-Global_2001_db8__9 BGP        ---        start  2026-11-27 20:01:03  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: 2001:db8::9
0000 ";
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let found: Vec<_> = answer::sessions(&lines)
        .into_iter()
        .map(|s| [s.family.into(), s.peer_address, s.peer_type, s.state, s.since, s.info].join("|"))
        .collect();
    assert_eq!(
        found,
        [
            "IPv4|192.0.2.2|node-to-node mesh|up|2026-11-27 20:01:02|Established",
            "IPv6|2001:db8::9|global|start|2026-11-27 20:01:03|Active Socket: Connection refused",
        ]
    );
    assert!(answer::is_last("0000 ") && !answer::is_last("1002-a") && !answer::is_last(" 0000 "));
    assert_eq!(answer::version("0001 BIRD 2.0.12 ready.").as_deref(), Some("2.0.12"));
    assert_eq!(answer::version("BIRD version 1.6.8").as_deref().and_then(answer::major), Some(1));
    assert_eq!(answer::version("bash: bird: not found"), None);
}
