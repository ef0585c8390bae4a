//! BGPPeer.
//! In: Calico's BGPPeer (api/pkg/apis/projectcalico/v3/bgppeer.go). Out: [`model::BgpPeer`].
//! Invariant: it says which nodes speak and with whom, or it is refused.
//! Never: one of which a part was not understood: it might be what closes the session.

use super::{
    super::field::{InvalidField, Meta, read},
    bgpconfiguration::{Password, as_number, seconds, secret},
    expression,
};
use crate::crds::shapes;
use model::{BgpPeer, NextHop, PeerNodes, PeerWith};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// Whom nodes speak BGP with, beside each other.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    /// The node that has this peer.
    node: Option<String>,
    /// The nodes that have it, by their labels; all, if neither stands here.
    node_selector: Option<String>,
    /// The peer's address, with a port or without.
    #[serde(rename = "peerIP")]
    peer_ip: Option<String>,
    /// The peer's AS.
    #[schemars(with = "Option<shapes::AsNumber>")]
    as_number: Option<Value>,
    /// The nodes' AS towards it, if it is another than their own.
    #[serde(rename = "localASNumber")]
    #[schemars(with = "Option<shapes::AsNumber>")]
    local_as_number: Option<Value>,
    /// Nodes that are the peers, by their labels.
    peer_selector: Option<String>,
    /// As nextHopMode: Keep towards other ASs.
    keep_original_next_hop: Option<bool>,
    /// Auto, Self or Keep.
    #[schemars(extend("enum" = ["Auto", "Self", "Keep"]))]
    next_hop_mode: Option<String>,
    /// Where the password is.
    password: Option<Password>,
    /// UseNodeIP, or None.
    #[schemars(extend("enum" = ["UseNodeIP", "None", ""]))]
    source_address: Option<String>,
    /// How long the peer may take to start anew, such as 120s.
    max_restart_time: Option<Value>,
    /// How often a sign of life is sent.
    keepalive_time: Option<Value>,
    /// So often the nodes' own AS may be in what the peer tells.
    #[serde(rename = "numAllowedLocalASNumbers")]
    num_allowed_local_as_numbers: Option<u32>,
    /// How many hops the peer is away; who is farther is not heard.
    ttl_security: Option<u8>,
    /// The neighbour by which it is reached.
    reachable_by: Option<String>,
    /// BGPFilters, in the order in which they are asked.
    filters: Option<Vec<String>>,
    /// Pods as peers: not served.
    local_workload_selector: Option<String>,
    /// Auto: nodes that are selected as peers speak back. Manual: an object of their own says so.
    #[schemars(extend("enum" = ["Auto", "Manual"]))]
    reverse_peering: Option<String>,
}

pub(in super::super) fn convert(meta: &Meta, object: &Value) -> Result<BgpPeer, InvalidField> {
    let spec: Spec = read("spec", object)?;
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let nodes = match (said(&spec.node), expression::given("spec.nodeSelector", spec.node_selector.as_deref())?) {
        (Some(_), Some(_)) => return Err(InvalidField::new("spec", "node and nodeSelector cannot stand together")),
        (Some(name), None) => PeerNodes::Named(name),
        (None, Some(selector)) => PeerNodes::Selected(selector),
        (None, None) => PeerNodes::All,
    };
    let written = spec.as_number.as_ref().filter(|value| !value.is_null() && **value != 0);
    let number = written.map(|value| as_number("spec.asNumber", value)).transpose()?;
    let selected = expression::given("spec.peerSelector", spec.peer_selector.as_deref())?;
    let with = match (said(&spec.peer_ip), selected, said(&spec.local_workload_selector)) {
        (Some(peer), None, None) => {
            let (address, port) = ends("spec.peerIP", &peer)?;
            let number = number.ok_or_else(|| InvalidField::new("spec.asNumber", "is required beside peerIP"))?;
            PeerWith::Address(address, port, number)
        }
        (None, Some(selector), None) if number.is_none() => PeerWith::Nodes(selector),
        (None, Some(_), None) => {
            return Err(InvalidField::new("spec.asNumber", "cannot stand beside peerSelector: nodes say theirs"));
        }
        (None, None, Some(_)) => PeerWith::Workloads,
        _ => {
            return Err(InvalidField::new(
                "spec",
                "needs one of peerIP, peerSelector and localWorkloadSelector, and one alone",
            ));
        }
    };
    let next_hop = match spec.next_hop_mode.as_deref() {
        None if spec.keep_original_next_hop == Some(true) => NextHop::KeepOutside,
        None | Some("Auto") => NextHop::Auto,
        Some("Self") => NextHop::Own,
        Some("Keep") => NextHop::Keep,
        Some(other) => {
            return Err(InvalidField::new("spec.nextHopMode", format!("{other:?} is not Auto, Self or Keep")));
        }
    };
    let by = said(&spec.reachable_by);
    let by = by
        .map(|text| text.parse().map_err(|_| InvalidField::new("spec.reachableBy", format!("{text:?} is no address"))));
    Ok(BgpPeer {
        name: meta.name.clone(),
        nodes,
        with,
        local_as: spec.local_as_number.map(|value| as_number("spec.localASNumber", &value)).transpose()?,
        password: secret("spec.password", spec.password)?,
        any_source: spec.source_address.as_deref() == Some("None"),
        next_hop,
        restart: seconds("spec.maxRestartTime", spec.max_restart_time.as_ref())?,
        keepalive: seconds("spec.keepaliveTime", spec.keepalive_time.as_ref())?,
        allowed_local_as: spec.num_allowed_local_as_numbers.unwrap_or_default(),
        ttl_security: spec.ttl_security.filter(|hops| *hops != 0),
        reachable_by: by.transpose()?,
        filters: spec.filters.unwrap_or_default(),
        reverses: spec.reverse_peering.as_deref() != Some("Manual"),
    })
}

/// `ADDRESS`, `V4:PORT` or `[V6]:PORT`.
fn ends(path: &str, text: &str) -> Result<(IpAddr, Option<u16>), InvalidField> {
    if let Ok(address) = text.parse() {
        return Ok((address, None));
    }
    let both: Result<SocketAddr, _> = text.parse();
    both.map(|both| (both.ip(), Some(both.port()))).map_err(|_| {
        InvalidField::new(
            path,
            format!("{text:?} is not an address such as 192.0.2.9, 192.0.2.9:1790 or [2001:db8::9]:1790"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{known, refusal};
    use super::*;
    use model::{AsNumber, Resource};

    fn text(spec: &str) -> String {
        format!("{{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {{name: tor}}, spec: {spec}}}")
    }

    fn peer(spec: &str) -> BgpPeer {
        match known(&text(spec)).0 {
            Resource::BgpPeer(peer) => *peer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_peer_is_read_with_all_that_it_says() {
        let found = peer(
            "{node: n1, peerIP: '[2001:db8::9]:1790', asNumber: 65000, localASNumber: 64999, nextHopMode: Self, sourceAddress: None,
              maxRestartTime: 30s, keepaliveTime: 10s, numAllowedLocalASNumbers: 2, ttlSecurity: 1, reachableBy: '2001:db8::fe',
              filters: [a, b], reversePeering: Manual, password: {secretKeyRef: {name: bgp, key: tor}}}",
        );
        assert_eq!(found.with, PeerWith::Address("2001:db8::9".parse().expect("one"), Some(1790), AsNumber(65000)));
        assert_eq!(
            (&found.nodes, found.next_hop, found.any_source),
            (&PeerNodes::Named("n1".into()), NextHop::Own, true)
        );
        assert_eq!((found.restart, found.keepalive, found.ttl_security), (Some(30), Some(10), Some(1)));
        assert_eq!((found.filters.len(), found.reverses, found.allowed_local_as), (2, false, 2));
        let plain = peer("{peerSelector: has(rr), keepOriginalNextHop: true}");
        assert!(matches!(plain.with, PeerWith::Nodes(_)) && plain.nodes == PeerNodes::All && plain.reverses);
        assert_eq!(plain.next_hop, NextHop::KeepOutside);
    }

    #[test]
    fn what_is_not_understood_refuses_the_peer() {
        for (spec, path) in [
            ("{peerIP: 192.0.2.9}", "spec.asNumber"),
            ("{peerIP: here, asNumber: 1}", "spec.peerIP"),
            ("{}", "spec"),
            ("{peerIP: 192.0.2.9, asNumber: 1, peerSelector: all()}", "spec"),
            ("{peerSelector: all(), asNumber: 1}", "spec.asNumber"),
            ("{node: a, nodeSelector: all(), peerSelector: all()}", "spec"),
            ("{peerSelector: 'a =='}", "spec.peerSelector"),
            ("{peerIP: 192.0.2.9, asNumber: 1, nextHopMode: Other}", "spec.nextHopMode"),
            ("{peerIP: 192.0.2.9, asNumber: 1, unheardOf: 1}", "spec"),
        ] {
            let refused = refusal(&text(spec));
            assert!(refused.starts_with(path), "{spec}: {refused}");
        }
    }
}
