//! The cases by kind: one policy that everything is varied on, and the recipes.
//! In: whether addresses are IPv4. Out: cases.
//! Invariant: a case begins in a fresh cluster; after each of its steps every pod asks every other.
//! Never: the same case twice.

use super::{Allow, Change, NAMESPACE_NAME, Name, NetworkPolicy, Number, Peer, Port, Wanted, cluster::address};
use model::{Cidr, Protocol};

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Whom the policy is for.
    Target,
    /// No rule, and one that asks nothing.
    Rules,
    /// Every way to say a peer, alone and two at a time.
    Peers,
    /// Every way to say a port, and some two at a time.
    Ports,
    /// One that comes with the tool.
    Example,
    /// What changes while the policy is there.
    Actions,
    /// Policies that say the opposite.
    Conflict,
    /// The label that every namespace has.
    NamespaceLabel,
    /// Of Kubernetes' own suite.
    Upstream,
}

/// Steps and what they are tried for.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about.
    pub kind: Kind,
    /// What it is filed under.
    pub tags: Vec<Name>,
    /// Each: what changes at once.
    pub steps: Vec<Vec<Change>>,
}

/// Tags by group (CYC-6).
pub const TAGS: [(Name, &[Name]); 9] = [
    (
        "action",
        &[
            "create-policy",
            "delete-policy",
            "update-policy",
            "create-pod",
            "delete-pod",
            "set-pod-labels",
            "create-namespace",
            "delete-namespace",
            "set-namespace-labels",
        ],
    ),
    ("target", &["target-namespace", "target-pod-selector"]),
    ("direction", &["ingress", "egress"]),
    ("rule", &["deny-all", "allow-all", "any-peer", "any-port-protocol", "multi-peer", "multi-port/protocol"]),
    (
        "peer-pods",
        &[
            "all-pods",
            "pods-by-label",
            "all-namespaces",
            "namespaces-by-label",
            "policy-namespace",
            "namespaces-by-default-label",
        ],
    ),
    ("peer-ipblock", &["ip-block-no-except", "ip-block-with-except"]),
    ("port", &["any-port", "numbered-port", "named-port", "end-port"]),
    ("protocol", &["tcp", "udp", "sctp"]),
    ("miscellaneous", &["pathological", "conflict", "example", "upstream-e2e"]),
];

/// Tags whose cases the tool leaves out unless it is told otherwise.
pub const EXCLUDED: [Name; 5] = ["multi-peer", "upstream-e2e", "example", "end-port", "namespaces-by-default-label"];

/// All of them.
#[must_use]
pub fn cases(v4: bool) -> Vec<Case> {
    let all =
        [targets(), all_or_none(), peers(v4), ports(), vec![example()], actions(), conflicts(), by_name(), upstream()];
    all.into_iter().flatten().collect()
}

/// The same with DNS let out for whom a conflict closes (`--allow-dns`, CYC-5).
#[must_use]
pub fn allowing_dns(mut cases: Vec<Case>) -> Vec<Case> {
    for case in cases.iter_mut().filter(|case| case.kind == Kind::Conflict) {
        let changes = &mut case.steps[0];
        let is_egress = |change: &Change| matches!(change, Change::Policy(policy) if policy.egress.is_some());
        if changes.iter().any(is_egress) {
            changes.push(Change::Policy(NetworkPolicy { egress: Some(vec![dns()]), ..at("allow-dns", "x", "b") }));
        }
    }
    cases
}

const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;
const SCTP: Protocol = Protocol::SCTP;

fn single(kind: Kind, tags: impl IntoIterator<Item = Name>, changes: Vec<Change>) -> Case {
    steps(kind, tags, vec![changes])
}

fn steps(kind: Kind, tags: impl IntoIterator<Item = Name>, steps: Vec<Vec<Change>>) -> Case {
    Case { kind, tags: tags.into_iter().collect(), steps }
}

fn pods_and_namespaces(pods: Option<Wanted>, namespaces: Option<Wanted>) -> Peer {
    Peer::Pods { pods, namespaces }
}

fn number(protocol: Option<Protocol>, port: u16) -> Port {
    Port { protocol, number: Some(Number::Range(port, port)) }
}

fn named(protocol: Option<Protocol>, name: Name) -> Port {
    Port { protocol, number: Some(Number::Named(name)) }
}

fn dns() -> Allow {
    Allow { peers: vec![], ports: vec![number(Some(UDP), 53), number(Some(TCP), 53)] }
}

/// The policy that everything is varied on: x/a, TCP 80 from some pods and to others.
fn base() -> NetworkPolicy {
    let some = |pods: &[Name], namespaces: &[Name]| {
        let peers = vec![pods_and_namespaces(
            Some(Wanted::among("pod", true, pods)),
            Some(Wanted::among("ns", true, namespaces)),
        )];
        Allow { peers, ports: vec![number(Some(TCP), 80)] }
    };
    let (ingress, egress) = (some(&["b", "c"], &["x", "y"]), some(&["a", "b"], &["y", "z"]));
    NetworkPolicy { ingress: Some(vec![ingress]), egress: Some(vec![egress, dns()]), ..at("base", "x", "a") }
}

/// One for a pod, asked in no direction.
fn at(name: Name, namespace: Name, pod: Name) -> NetworkPolicy {
    NetworkPolicy { namespace, name, pods: Wanted::label("pod", pod), ingress: None, egress: None }
}

/// The base policy with the first rule of a direction changed.
fn with(direction: Name, change: impl FnOnce(&mut Allow)) -> Vec<Change> {
    let mut policy = base();
    let rules = if direction == "ingress" { &mut policy.ingress } else { &mut policy.egress };
    change(&mut rules.as_mut().expect("because the base policy has both")[0]);
    vec![Change::Policy(policy)]
}

const DIRECTIONS: [Name; 2] = ["ingress", "egress"];

fn targets() -> Vec<Case> {
    let namespaces = ["x", "y", "z"].map(|namespace| {
        single(Kind::Target, ["target-namespace"], vec![Change::Policy(NetworkPolicy { namespace, ..base() })])
    });
    let pods = [Wanted::default(), Wanted::label("pod", "a"), Wanted::among("pod", true, &["a", "b"])];
    let pods = pods.map(|pods| {
        single(Kind::Target, ["target-pod-selector"], vec![Change::Policy(NetworkPolicy { pods, ..base() })])
    });
    namespaces.into_iter().chain(pods).collect()
}

fn all_or_none() -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in DIRECTIONS {
        for (tag, rules) in [("deny-all", vec![]), ("allow-all", vec![Allow::default()])] {
            let mut policy = base();
            *(if direction == "ingress" { &mut policy.ingress } else { &mut policy.egress }) = Some(rules);
            cases.push(single(Kind::Rules, [direction, tag], vec![Change::Policy(policy)]));
        }
    }
    cases
}

/// A peer and its tags.
type Said = (Peer, Vec<Name>);

/// Selectors left out, empty and given, both at once but for neither; a network, and one with a hole.
fn ways_to_say_a_peer(v4: bool) -> Vec<Said> {
    let pods =
        [(None, "all-pods"), (Some(Wanted::default()), "all-pods"), (Some(Wanted::label("pod", "c")), "pods-by-label")];
    let namespaces = [
        (None, "policy-namespace"),
        (Some(Wanted::default()), "all-namespaces"),
        (Some(Wanted::label("ns", "x")), "namespaces-by-label"),
    ];
    let both = pods.iter().flat_map(|pods| namespaces.iter().map(move |namespaces| (pods, namespaces)));
    let said = both.filter(|((pods, _), (namespaces, _))| pods.is_some() || namespaces.is_some());
    let said = said.map(|((pods, of_pods), (namespaces, of_namespaces))| {
        (pods_and_namespaces(pods.clone(), namespaces.clone()), vec![*of_namespaces, *of_pods])
    });
    let net = around("z", "c", v4, 8);
    let hole = vec![around("z", "c", v4, 4)];
    let whole = (Peer::Block { net, except: vec![] }, vec!["ip-block-no-except"]);
    let holed = (Peer::Block { net, except: hole }, vec!["ip-block-with-except"]);
    said.chain([whole, holed]).collect()
}

/// The network of a pod that leaves so many bits open.
fn around(namespace: Name, pod: Name, v4: bool, open: u8) -> Cidr {
    let address = address(namespace, pod, v4);
    Cidr::new(address, if v4 { 32 } else { 128 } - open).expect("because no network is wider than its family")
}

fn peers(v4: bool) -> Vec<Case> {
    let ways = ways_to_say_a_peer(v4);
    let mut cases = Vec::new();
    for direction in DIRECTIONS {
        let mut case = |peers: Vec<Peer>, tags: Vec<Name>| {
            let tags = tags.into_iter().chain([direction]);
            cases.push(single(Kind::Peers, tags, with(direction, |rule| rule.peers = peers)));
        };
        case(vec![], vec!["any-peer"]);
        for (at, (one, of_one)) in ways.iter().enumerate() {
            case(vec![one.clone()], of_one.clone());
            for (other, of_other) in &ways[at + 1..] {
                let tags = [of_one.clone(), of_other.clone(), vec!["multi-peer"]].concat();
                case(vec![one.clone(), other.clone()], tags);
            }
        }
    }
    cases
}

fn ways_to_say_a_port() -> Vec<(Port, Vec<Name>)> {
    let tagged = |port: Port| {
        let of_protocol = port.protocol.map(|protocol| match protocol {
            UDP => "udp",
            SCTP => "sctp",
            _ => "tcp",
        });
        let of_number = match port.number {
            None => vec!["any-port"],
            Some(Number::Named(_)) => vec!["named-port"],
            Some(Number::Range(first, last)) if first == last => vec!["numbered-port"],
            Some(Number::Range(..)) => vec!["numbered-port", "end-port"],
        };
        (port, of_protocol.into_iter().chain(of_number).collect())
    };
    let mut ports = Vec::new();
    for protocol in [None, Some(TCP), Some(UDP), Some(SCTP)] {
        ports.extend([Port { protocol, number: None }, number(protocol, 80), number(protocol, 81)]);
    }
    let names = [
        (TCP, ["serve-80-tcp", "serve-81-tcp"]),
        (UDP, ["serve-80-udp", "serve-81-udp"]),
        (SCTP, ["serve-80-sctp", "serve-81-sctp"]),
    ];
    for (protocol, names) in names {
        ports.extend(names.map(|name| named(Some(protocol), name)));
        ports.extend([80, 84].map(|last| Port { protocol: Some(protocol), number: Some(Number::Range(53, last)) }));
    }
    ports.into_iter().map(tagged).collect()
}

fn ports() -> Vec<Case> {
    // A name of another protocol, a name and a number that nobody serves: nothing is opened (CYC-9).
    let strange = [named(Some(TCP), "serve-81-udp"), named(Some(TCP), "serve-7981-udp"), number(Some(TCP), 7981)];
    let udp = || Port { protocol: Some(UDP), number: None };
    let pairs = [
        [Port::default(), number(None, 80)],
        [Port::default(), named(None, "serve-80-tcp")],
        [Port::default(), udp()],
        [number(None, 80), number(None, 81)],
        [number(None, 80), named(None, "serve-81-tcp")],
        [number(None, 80), named(Some(UDP), "serve-81-udp")],
        [number(Some(UDP), 80), named(Some(UDP), "serve-81-udp")],
    ];
    let mut cases = Vec::new();
    for direction in DIRECTIONS {
        let mut case = |ports: &[Port], tags: Vec<Name>| {
            let tags = tags.into_iter().chain([direction]);
            cases.push(single(Kind::Ports, tags, with(direction, |rule| rule.ports = ports.to_vec())));
        };
        case(&[], vec!["any-port-protocol"]);
        ways_to_say_a_port().into_iter().for_each(|(port, tags)| case(&[port], tags));
        strange.iter().for_each(|port| case(&[*port], vec!["pathological"]));
        pairs.iter().for_each(|pair| case(pair, vec!["multi-port/protocol"]));
    }
    cases
}

fn example() -> Case {
    let open = Allow { peers: vec![], ports: vec![named(None, "serve-81-tcp")] };
    let policy = for_all("allow-all", Some(vec![open]), None);
    let (there, gone) = (Change::Pod("w", "a", vec![("pod", "a")]), Change::NoPod("w", "a"));
    let namespace = Change::Namespace("w", vec![("ns", "w")]);
    let all = [vec![policy], vec![namespace, there], vec![gone], vec![Change::NoNamespace("w")]];
    steps(Kind::Example, ["example"], all.into())
}

/// One of x for all its pods.
fn for_all(name: Name, ingress: Option<Vec<Allow>>, egress: Option<Vec<Allow>>) -> Change {
    Change::Policy(NetworkPolicy { namespace: "x", name, pods: Wanted::default(), ingress, egress })
}

fn actions() -> Vec<Case> {
    let there = || Change::Policy(base());
    let by_label = |pods: Option<Wanted>, namespaces: Wanted| {
        with("ingress", |rule| rule.peers = vec![pods_and_namespaces(pods, Some(namespaces))])
    };
    let other_port = with("ingress", |rule| rule.ports = vec![named(Some(UDP), "serve-81-udp")]);
    let another = vec![
        Change::Namespace("y-2", vec![("ns", "y")]),
        Change::Pod("y-2", "a", vec![("pod", "a")]),
        Change::Pod("y-2", "b", vec![("pod", "b")]),
    ];
    let namespace = |labels: &[(Name, Name)]| vec![Change::Namespace("y", [&[("ns", "y")], labels].concat())];
    let pod = |labels: &[(Name, Name)]| vec![Change::Pod("y", "b", [&[("pod", "b")], labels].concat())];
    let of_pods = Some(Wanted::label("new-label", "abc"));
    let case = |tags: &[Name], all: Vec<Vec<Change>>| steps(Kind::Actions, tags.iter().copied(), all);
    vec![
        case(&["create-policy", "delete-policy"], vec![vec![there()], vec![Change::NoPolicy("x", "base")]]),
        case(&["create-policy", "update-policy"], vec![vec![there()], other_port]),
        case(&["create-namespace", "delete-namespace"], vec![vec![there()], another, vec![Change::NoNamespace("y-2")]]),
        case(
            &["set-namespace-labels"],
            vec![by_label(None, Wanted::label("new-ns", "qrs")), namespace(&[("new-ns", "qrs")]), namespace(&[])],
        ),
        case(
            &["create-pod", "delete-pod"],
            vec![vec![there()], vec![Change::Pod("x", "d", vec![("pod", "d")])], vec![Change::NoPod("x", "d")]],
        ),
        case(
            &["set-pod-labels"],
            vec![by_label(of_pods, Wanted::among("ns", true, &["y", "z"])), pod(&[("new-label", "abc")]), pod(&[])],
        ),
    ]
}

fn conflicts() -> Vec<Case> {
    let net = |text: &str| Peer::Block { net: text.parse().expect("a network"), except: vec![] };
    let only = |peer: Peer| vec![Allow { peers: vec![peer], ports: vec![] }];
    let by_pod = |namespaces: Wanted| only(pods_and_namespaces(None, Some(namespaces)));
    let (deny, allow) = (|| Vec::new(), || vec![Allow::default()]);
    let (pods, no_pods) = (|| by_pod(Wanted::default()), || by_pod(Wanted::label("this-will-never-happen", "qrs123")));
    let (ips, no_ips) = (|| only(net("0.0.0.0/0")), || only(net("0.0.0.0/31")));
    // x/b sends, y/c receives.
    let out = |name, rules| Change::Policy(NetworkPolicy { egress: Some(rules), ..at(name, "x", "b") });
    let into = |name, rules| Change::Policy(NetworkPolicy { ingress: Some(rules), ..at(name, "y", "c") });
    let mut all =
        vec![vec![out("deny", deny()), into("allow", allow())], vec![out("allow", allow()), into("deny", deny())]];
    for end in [&out as &dyn Fn(Name, Vec<Allow>) -> Change, &into] {
        all.extend([
            vec![end("deny", deny()), end("allow", allow())],
            vec![end("deny", deny()), end("allow", pods())],
            vec![end("deny", deny()), end("allow", ips())],
            vec![end("deny", no_ips()), end("allow", pods())],
            vec![end("deny", no_pods()), end("allow", ips())],
            vec![end("deny", no_ips())],
            vec![end("deny", no_pods())],
        ]);
    }
    all.into_iter().map(|changes| single(Kind::Conflict, ["conflict"], changes)).collect()
}

fn by_name() -> Vec<Case> {
    let by_name = || vec![pods_and_namespaces(None, Some(Wanted::label(NAMESPACE_NAME, "z")))];
    let case = |direction| {
        single(
            Kind::NamespaceLabel,
            ["namespaces-by-default-label", direction],
            with(direction, |rule| rule.peers = by_name()),
        )
    };
    DIRECTIONS.map(case).into()
}

fn upstream() -> Vec<Case> {
    upstream_at_once().into_iter().chain(upstream_step_by_step()).collect()
}

/// One of x/a.
fn of_x_a(name: Name, ingress: Option<Vec<Allow>>, egress: Option<Vec<Allow>>) -> Change {
    Change::Policy(NetworkPolicy { ingress, egress, ..at(name, "x", "a") })
}

fn of_namespaces(namespaces: Wanted) -> Vec<Peer> {
    vec![pods_and_namespaces(None, Some(namespaces))]
}

fn one_rule(peers: Vec<Peer>, ports: Vec<Port>) -> Option<Vec<Allow>> {
    Some(vec![Allow { peers, ports }])
}

fn upstream_at_once() -> Vec<Case> {
    let pod = |namespace, pod| {
        vec![pods_and_namespaces(Some(Wanted::label("pod", pod)), Some(Wanted::label("ns", namespace)))]
    };
    let not_x = Wanted::among("ns", false, &["x"]);
    let some = vec![pods_and_namespaces(Some(Wanted::among("pod", true, &["b", "c"])), Some(not_x))];
    let dns_out = Allow { peers: vec![], ports: vec![number(Some(UDP), 53)] };
    let to_y_a = vec![Allow { peers: pod("y", "a"), ports: vec![] }, dns_out];
    let of_y =
        |name, own| Change::Policy(NetworkPolicy { ingress: one_rule(pod("x", "a"), vec![]), ..at(name, "y", own) });
    let x_b = vec![pods_and_namespaces(Some(Wanted::label("pod", "b")), None)];
    let ports = vec![number(None, 80), number(Some(UDP), 53)];
    let named = one_rule(vec![], vec![named(None, "serve-81-tcp")]);
    let case = |tags: &[Name], changes: Vec<Change>| {
        single(Kind::Upstream, tags.iter().copied().chain(["upstream-e2e"]), changes)
    };
    vec![
        case(&["ingress", "deny-all"], vec![for_all("deny-ingress", Some(vec![]), None)]),
        case(&["deny-all"], vec![for_all("deny-all", Some(vec![]), Some(vec![dns()]))]),
        case(&[], vec![of_x_a("some", one_rule(some, vec![]), None)]),
        case(&["allow-all"], vec![for_all("allow-all", Some(vec![Allow::default()]), None)]),
        case(&["ingress", "named-port"], vec![for_all("named", named, None)]),
        case(&[], vec![of_x_a("both", one_rule(x_b, vec![]), one_rule(vec![], ports))]),
        case(&["conflict"], vec![of_x_a("client", None, Some(to_y_a)), of_y("a", "a"), of_y("b", "b")]),
    ]
}

fn upstream_step_by_step() -> Vec<Case> {
    let updated = Wanted { labels: vec![("pod", "b"), ("pod2", "updated")], ..Wanted::default() };
    let updated = vec![pods_and_namespaces(Some(updated), None)];
    let isolated = NetworkPolicy {
        namespace: "x",
        name: "isolated",
        pods: Wanted::label("target", "isolated"),
        ingress: Some(vec![]),
        egress: None,
    };
    let on = |port| one_rule(of_namespaces(Wanted::label("ns", "y")), vec![number(Some(TCP), port)]);
    let by_namespace = one_rule(of_namespaces(Wanted::label("ns2", "updated")), vec![]);
    let mutated = |rules| for_all("mutated", Some(rules), None);
    let case = |tags: &[Name], first: Change, then: Change| {
        steps(Kind::Upstream, tags.iter().copied().chain(["upstream-e2e"]), vec![vec![first], vec![then]])
    };
    let labelled = Change::Namespace("y", vec![("ns", "y"), ("ns2", "updated")]);
    let pod = |name, labels| Change::Pod("x", name, labels);
    let closed = for_all("deny-all", Some(vec![]), Some(vec![]));
    vec![
        case(&[], of_x_a("on-81", on(81), None), of_x_a("on-80", on(80), None)),
        case(&[], mutated(vec![Allow::default()]), mutated(vec![])),
        case(&[], of_x_a("by-namespace", by_namespace, None), labelled),
        case(&[], of_x_a("by-pod", one_rule(updated, vec![]), None), pod("b", vec![("pod", "b"), ("pod2", "updated")])),
        case(&[], Change::Policy(isolated), pod("a", vec![("target", "isolated")])),
        case(&["deny-all", "delete-policy"], closed, Change::NoPolicy("x", "deny-all")),
    ]
}
