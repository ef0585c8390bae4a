//! What a node says of its BGP, in the form of Calico's CalicoNodeStatus (api/pkg/apis/projectcalico/v3/nodestatus.go).
//! In: what BIRD answered, or that it did not; which classes are asked. Out: [`NodeStatus`], with the values that Calico's schema has.
//! Invariant: a class that is not asked is not there; one that is asked is whole, also when no BIRD answers, as Calico has it.
//! Never: more routes than an object of an API server has room for.

use crate::{
    answer::{Daemon, Session},
    peers::Kind,
    routes::Route,
};
use model::StatusClass;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Each takes about 200 bytes, and an etcd takes 1.5 MB at once.
const ROUTES_MAX: usize = 4000;
/// What Calico writes where there is no gateway.
const NO_GATEWAY: &str = "N/A";

/// What BIRD answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// How it is.
    pub daemon: Daemon,
    /// Whom it speaks with.
    pub sessions: Vec<Session>,
    /// What it knows.
    pub routes: Vec<Route>,
}

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Agent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bgp: Option<Bgp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<Routes>,
    /// Routes that had no room.
    #[serde(skip)]
    pub left_out: usize,
}

/// Two where Calico runs one for each family; here one speaks for both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Agent {
    bird_v4: OneDaemon,
    bird_v6: OneDaemon,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct OneDaemon {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(rename = "routerID", skip_serializing_if = "Option::is_none")]
    router_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_boot_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_reconfiguration_time: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Bgp {
    number_established_v4: usize,
    number_not_established_v4: usize,
    number_established_v6: usize,
    number_not_established_v6: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peers_v4: Vec<Peer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peers_v6: Vec<Peer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Peer {
    #[serde(rename = "peerIP")]
    peer_ip: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    since: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Routes {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes_v4: Vec<OneRoute>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes_v6: Vec<OneRoute>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct OneRoute {
    #[serde(rename = "type")]
    kind: &'static str,
    destination: String,
    gateway: String,
    interface: String,
    learned_from: Source,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    source_type: Option<&'static str>,
    #[serde(rename = "peerIP", skip_serializing_if = "Option::is_none")]
    peer_ip: Option<String>,
}

/// What is to be written where these classes are asked; `None`: no BIRD answers.
#[must_use]
pub fn status(said: Option<&Said>, classes: &BTreeSet<StatusClass>) -> NodeStatus {
    let is_asked = |class| classes.contains(&class);
    let (routes, left_out) = said.map(routes).unwrap_or_default();
    NodeStatus {
        agent: is_asked(StatusClass::Agent).then(|| agent(said)),
        bgp: is_asked(StatusClass::Bgp).then(|| said.map(bgp).unwrap_or_default()),
        left_out: if is_asked(StatusClass::Routes) { left_out } else { 0 },
        routes: is_asked(StatusClass::Routes).then_some(routes),
    }
}

fn agent(said: Option<&Said>) -> Agent {
    let one = match said {
        None => OneDaemon { state: "NotReady", ..OneDaemon::default() },
        Some(Said { daemon, .. }) => OneDaemon {
            state: "Ready",
            version: daemon.version.clone(),
            router_id: daemon.router_id.clone(),
            last_boot_time: daemon.booted.clone(),
            last_reconfiguration_time: daemon.reconfigured.clone(),
        },
    };
    Agent { bird_v4: one.clone(), bird_v6: one }
}

fn bgp(said: &Said) -> Bgp {
    let of = |family| -> (Vec<Peer>, usize) {
        let peers: Vec<_> = said.sessions.iter().filter(|session| session.family == family).map(peer).collect();
        let established = peers.iter().filter(|peer| peer.state == Some("Established")).count();
        (peers, established)
    };
    let ((peers_v4, established_v4), (peers_v6, established_v6)) = (of("IPv4"), of("IPv6"));
    Bgp {
        number_established_v4: established_v4,
        number_not_established_v4: peers_v4.len() - established_v4,
        number_established_v6: established_v6,
        number_not_established_v6: peers_v6.len() - established_v6,
        peers_v4,
        peers_v6,
    }
}

fn peer(session: &Session) -> Peer {
    Peer {
        peer_ip: session.peer_address.clone(),
        kind: match session.kind {
            Kind::Mesh => "NodeMesh",
            Kind::Node => "NodePeer",
            Kind::Global => "GlobalPeer",
        },
        state: state(&session.bgp_state),
        since: session.since.clone(),
    }
}

/// BIRD 2 has two words more than Calico's schema: for one that waits to be spoken to, and for one that is switched off.
fn state(word: &str) -> Option<&'static str> {
    match word {
        "Passive" => Some("Active"),
        "Down" => Some("Idle"),
        word => ["Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established", "Close"]
            .into_iter()
            .find(|known| *known == word),
    }
}

/// The best ones first to have room; and how many have none.
fn routes(said: &Said) -> (Routes, usize) {
    let left_out = said.routes.len().saturating_sub(ROUTES_MAX);
    let peers: BTreeMap<&str, &Session> = said.sessions.iter().map(|session| (&*session.name, session)).collect();
    let mut kept: Vec<&Route> = said.routes.iter().collect();
    if left_out > 0 {
        kept.sort_by_key(|route| !route.is_best);
        kept.truncate(ROUTES_MAX);
    }
    let (v6, v4): (Vec<_>, Vec<_>) =
        kept.into_iter().map(|route| one_route(route, &peers)).partition(|route| route.destination.contains(':'));
    (Routes { routes_v4: v4, routes_v6: v6 }, left_out)
}

fn one_route(route: &Route, peers: &BTreeMap<&str, &Session>) -> OneRoute {
    OneRoute {
        kind: if route.is_best { "FIB" } else { "RIB" },
        destination: route.destination.clone(),
        gateway: route.gateway.clone().unwrap_or_else(|| NO_GATEWAY.to_owned()),
        interface: route.interface.clone(),
        learned_from: source(&route.learned_by, peers),
    }
}

/// By the names of protocols as `kernel` and `node` write them.
fn source(protocol: &str, peers: &BTreeMap<&str, &Session>) -> Source {
    if let Some(session) = peers.get(protocol) {
        let kind = if session.kind == Kind::Mesh { "NodeMesh" } else { "BGPPeer" };
        return Source { source_type: Some(kind), peer_ip: Some(session.peer_address.clone()) };
    }
    let kinds = [("kernel", "Kernel"), ("direct", "Direct"), ("own", "Static"), ("gateways", "Static")];
    let kind = kinds.into_iter().find(|(before, _)| protocol.starts_with(before));
    Source { source_type: kind.map(|(_, kind)| kind), peer_ip: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer;

    const STATUS: &str = "1000-BIRD 2.0.12
1011-Router ID is 192.0.2.1
 Hostname is vm
 Current server time is 2026-11-28 04:58:27.427
 Last reboot on 2026-11-28 04:58:22.313
 Last reconfiguration on 2026-11-28 04:58:23.313
0013 Daemon is up and running";
    const PROTOCOLS: &str = "2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     2026-11-28 04:58:22
1006-
1002-Mesh_192_0_2_2 BGP        ---        up     2026-11-28 04:58:24  Established
1006-  Description:    node n2
   BGP state:          Established
     Neighbor address: 192.0.2.2
1002-Node_192_0_2_7 BGP        ---        start  2026-11-28 04:58:22  Passive
1006-  BGP state:          Passive
     Neighbor address: 192.0.2.7
1002-Global_2001_db8__9 BGP        ---        start  2026-11-28 04:58:22  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: 2001:db8::9
0000 ";
    const ROUTES: &str = "1007-Table master4:
 10.65.0.0/26         blackhole [own4 04:58:22.313] * (200)
 10.65.0.64/26        unicast [Mesh_192_0_2_2 04:58:24.001] * (100) [i]
 \tvia 192.0.2.2 on eth0
                      unicast [Node_192_0_2_7 04:58:24.001 from 192.0.2.7] (100) [AS65000i]
 \tvia 192.0.2.7 on eth0
 10.65.0.2/32         unicast [kernel4 04:58:22.313] * (150)
 \tdev cali0
 Table master6:
 2001:db8::/64        unicast [direct1 04:58:22.315] * (240)
 \tdev eth0
0000 ";

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn said() -> Said {
        Said {
            daemon: answer::daemon(&lines(STATUS)),
            sessions: answer::sessions(&lines(PROTOCOLS)),
            routes: answer::routes(&lines(ROUTES)),
        }
    }

    fn written(said: Option<&Said>, classes: &[StatusClass]) -> serde_json::Value {
        serde_json::to_value(status(said, &classes.iter().copied().collect())).expect("it is JSON")
    }

    #[test]
    fn a_node_status_says_what_bird_does_in_the_words_of_calicos_schema() {
        let one = serde_json::json!({
            "state": "Ready", "version": "2.0.12", "routerID": "192.0.2.1",
            "lastBootTime": "2026-11-28 04:58:22.313", "lastReconfigurationTime": "2026-11-28 04:58:23.313",
        });
        let route = |kind: &str, [destination, gateway, interface]: [&str; 3], from: serde_json::Value| {
            serde_json::json!({ "type": kind, "destination": destination, "gateway": gateway, "interface": interface,
                "learnedFrom": from })
        };
        let expected = serde_json::json!({
            "agent": { "birdV4": one, "birdV6": one },
            "bgp": {
                "numberEstablishedV4": 1, "numberNotEstablishedV4": 1,
                "numberEstablishedV6": 0, "numberNotEstablishedV6": 1,
                "peersV4": [
                    { "peerIP": "192.0.2.2", "type": "NodeMesh", "state": "Established", "since": "2026-11-28 04:58:24" },
                    { "peerIP": "192.0.2.7", "type": "NodePeer", "state": "Active", "since": "2026-11-28 04:58:22" },
                ],
                "peersV6": [
                    { "peerIP": "2001:db8::9", "type": "GlobalPeer", "state": "Active", "since": "2026-11-28 04:58:22" },
                ],
            },
            "routes": {
                "routesV4": [
                    route("FIB", ["10.65.0.0/26", "N/A", "blackhole"], serde_json::json!({ "sourceType": "Static" })),
                    route("FIB", ["10.65.0.64/26", "192.0.2.2", "eth0"],
                        serde_json::json!({ "sourceType": "NodeMesh", "peerIP": "192.0.2.2" })),
                    route("RIB", ["10.65.0.64/26", "192.0.2.7", "eth0"],
                        serde_json::json!({ "sourceType": "BGPPeer", "peerIP": "192.0.2.7" })),
                    route("FIB", ["10.65.0.2/32", "N/A", "cali0"], serde_json::json!({ "sourceType": "Kernel" })),
                ],
                "routesV6": [
                    route("FIB", ["2001:db8::/64", "N/A", "eth0"], serde_json::json!({ "sourceType": "Direct" })),
                ],
            },
        });
        assert_eq!(written(Some(&said()), &StatusClass::ALL), expected);
    }

    #[test]
    fn without_a_bird_a_node_is_not_ready_and_speaks_with_nobody_as_calico_says_it() {
        let expected = serde_json::json!({
            "agent": { "birdV4": { "state": "NotReady" }, "birdV6": { "state": "NotReady" } },
            "bgp": {
                "numberEstablishedV4": 0, "numberNotEstablishedV4": 0,
                "numberEstablishedV6": 0, "numberNotEstablishedV6": 0,
            },
            "routes": {},
        });
        assert_eq!(written(None, &StatusClass::ALL), expected);
    }

    #[test]
    fn a_class_that_nobody_asks_is_not_said() {
        let keys = |classes: &[StatusClass]| {
            let written = written(Some(&said()), classes);
            written.as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&[StatusClass::Bgp]), ["bgp"]);
        assert_eq!(keys(&[StatusClass::Agent, StatusClass::Routes]), ["agent", "routes"]);
        assert!(keys(&[]).is_empty());
    }

    #[test]
    fn of_more_routes_than_an_object_can_hold_the_best_are_said_and_the_others_counted() {
        let mut said = said();
        let (best, other) = (said.routes[1].clone(), said.routes[2].clone());
        said.routes = vec![other; ROUTES_MAX];
        said.routes.push(best);
        let all = [StatusClass::Routes].into();
        let found = status(Some(&said), &all);
        let v4 = found.routes.as_ref().expect("they are asked").routes_v4.clone();
        assert_eq!((v4.len(), v4[0].kind, found.left_out), (ROUTES_MAX, "FIB", 1));
        assert!(serde_json::to_vec(&found).expect("it is JSON").len() < 1_000_000, "an object has room for it");
        assert_eq!(status(Some(&said), &[StatusClass::Bgp].into()).left_out, 0);
    }
}
