//! Shapes of fields that are read by hand, and so have no type of their own that could say them.
//! In: nothing. Out: schemas.
//! Invariant: what the readers take is taken here.
//! Never: read into: objects are read by `convert`.

use super::checks;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Whatever is written.
#[derive(JsonSchema)]
pub(crate) struct Open {}

/// A direction.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it is only described")]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

/// What a pool is for.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it is only described")]
pub(crate) enum Use {
    Workload,
    Tunnel,
    LoadBalancer,
}

/// A port of a rule: a number, a range, a name.
pub(crate) struct Port;

impl JsonSchema for Port {
    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 0, "maximum": 65535,
            "pattern": "^([0-9]{1,5}(:[0-9]{1,5})?|[A-Za-z0-9_.-]{1,128})$",
        })
    }
}

/// A protocol: a name or a number.
pub(crate) struct Protocol;

impl JsonSchema for Protocol {
    fn schema_name() -> Cow<'static, str> {
        "Protocol".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 1, "maximum": 255,
            "pattern": "^(?i)(TCP|UDP|SCTP|ICMP|ICMPv6|UDPLite|[0-9]{1,3})$",
        })
    }
}

/// The number of an autonomous system: a number, or two of 16 bits with a dot between.
pub(crate) struct AsNumber;

impl JsonSchema for AsNumber {
    fn schema_name() -> Cow<'static, str> {
        "AsNumber".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 0, "maximum": 4_294_967_295_u32,
            "pattern": "^[0-9]{1,10}([.][0-9]{1,5})?$",
        })
    }
}

/// A network, or one address.
pub(crate) struct Net;

impl JsonSchema for Net {
    fn schema_name() -> Cow<'static, str> {
        "Net".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 43, "x-kubernetes-validations": checks::of(checks::NET) })
    }
}

/// An address.
pub(crate) struct Address;

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 43, "x-kubernetes-validations": checks::of(checks::ADDRESS) })
    }
}

/// What is read of a FelixConfiguration; its other fields are Calico's, and are kept.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct Felix {
    /// What becomes of packets that are refused: Drop, or Reject, which answers them.
    #[schemars(extend("pattern" = "^(?i)(Drop|Reject)?$"))]
    iptables_filter_deny_action: Option<String>,
    /// Whether pods may speak to their own node where no policy says it: Drop, Return, or Accept.
    #[schemars(extend("pattern" = "^(?i)(Drop|Return|Accept)?$"))]
    default_endpoint_to_host_action: Option<String>,
    /// Ports at which a node is reached whatever its host endpoints' policies say.
    #[schemars(length(max = 1024))]
    failsafe_inbound_host_ports: Option<Vec<Failsafe>>,
    /// Ports that a node reaches whatever its host endpoints' policies say.
    #[schemars(length(max = 1024))]
    failsafe_outbound_host_ports: Option<Vec<Failsafe>>,
    /// Whether nodes answer ARP and ND for pods and load balancers in their own network.
    #[schemars(extend("pattern" = "^(?i)(Disabled|PodsAndLoadBalancers)?$"))]
    local_subnet_l2_reachability: Option<String>,
    /// How often a node says unasked where its pods' addresses are, such as 2m; 0: only when they come.
    #[schemars(rename = "localSubnetL2ReachabilityRefreshInterval")]
    local_subnet_l2_reachability_refresh_interval: Option<String>,
    /// From which severity on agents write to their log, where their own settings do not say it.
    #[schemars(extend("pattern" = "^(?i)(Trace|Debug|Info|Warning|Error|Fatal)?$"))]
    log_severity_screen: Option<String>,
    /// Which nodes read this, where it is neither named default nor node.NAME.
    node_selector: Option<String>,
    /// Whether pods are reached at the floating addresses that they ask for.
    #[schemars(extend("pattern" = "^(?i)(Disabled|Enabled)?$"))]
    #[schemars(rename = "floatingIPs")]
    floating_ips: Option<String>,
    /// Whether pods may send by other source addresses than their own, where they ask for it.
    #[schemars(extend("pattern" = "^(?i)(Disabled|Any)?$"))]
    workload_source_spoofing: Option<String>,
    /// What pods of pools with natOutgoing reach by their own addresses: IPPoolsOnly, or IPPoolsAndHostIPs.
    #[schemars(extend("pattern" = "^(?i)(IPPoolsOnly|IPPoolsAndHostIPs)?$"))]
    nat_outgoing_exclusions: Option<String>,
    /// The IPv4 address by which nodes stand for these pods; their own, if nothing stands here.
    nat_outgoing_address: Option<String>,
    /// The ports by which they do, FIRST:LAST; 1025:29999 for TCP and 20000:29999 for the rest, if nothing stands here.
    #[schemars(extend("x-kubernetes-int-or-string" = true))]
    nat_port_range: Option<String>,
    /// The largest packet that goes through VXLAN over IPv4; 0: what the uplink leaves.
    #[schemars(range(min = 0, max = 65535))]
    #[schemars(rename = "vxlanMTU")]
    vxlan_mtu: Option<i32>,
    /// The same over IPv6.
    #[schemars(range(min = 0, max = 65535))]
    #[schemars(rename = "vxlanMTUV6")]
    vxlan_mtu_v6: Option<i32>,
    /// The same through IPIP.
    #[schemars(range(min = 0, max = 65535))]
    #[schemars(rename = "ipipMTU")]
    ipip_mtu: Option<i32>,
    /// The network of VXLAN (VNI) that all tunnels between nodes are; 4096, if nothing stands here.
    #[schemars(range(min = 1, max = 16_777_215))]
    #[schemars(rename = "vxlanVNI")]
    vxlan_vni: Option<i32>,
    /// Their UDP port; 4789, if nothing stands here.
    #[schemars(range(min = 1, max = 65535))]
    vxlan_port: Option<i32>,
    /// Addresses and networks of hosts that are none of the cluster's, and may send wrapped packets.
    #[schemars(length(max = 1024))]
    external_nodes_list: Option<Vec<Net>>,
    /// Whether packets are wrapped by VXLAN where pools ask for it; true, if nothing stands here.
    vxlan_enabled: Option<bool>,
    /// The same by IPIP.
    ipip_enabled: Option<bool>,
}

/// A port that stays open.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it is only described")]
struct Failsafe {
    /// TCP, UDP or SCTP; TCP if nothing stands here.
    #[schemars(extend("pattern" = "^(?i)(TCP|UDP|SCTP)?$"))]
    protocol: Option<String>,
    /// Its number.
    #[schemars(range(min = 0, max = 65535))]
    port: i32,
    /// Towards or from this network alone.
    #[schemars(with = "Option<Net>")]
    net: Option<String>,
}

/// What a ClusterInformation says of its cluster; what else Calico's own node writes into it is kept.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct Named {
    /// The cluster's name, for good: 32 digits of base 16 that nobody else has.
    #[schemars(rename = "clusterGUID")]
    cluster_guid: Option<String>,
    /// What it runs on, such as k8s,kdd.
    cluster_type: Option<String>,
    /// The version of Calico; none where Calico does not run.
    calico_version: Option<String>,
    /// False: somebody changes Calico's objects as a whole, and nobody else is to write them.
    datastore_ready: Option<bool>,
}

/// What is read of a KubeControllersConfiguration; its other fields are Calico's, and are kept.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct SetUp {
    /// What controllers do.
    controllers: Option<Controllers>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is only described")]
struct Controllers {
    /// What is done for nodes.
    node: Option<NodeController>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is only described")]
struct NodeController {
    /// How long an address whose pod is gone is watched before it is taken back, such as 15m; 0s: it never is.
    leak_grace_period: Option<String>,
    /// Host endpoints of nodes.
    host_endpoint: Option<AutoHost>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is only described")]
struct AutoHost {
    /// Whether each node has one, for all its interfaces, that lets all through where no policy says otherwise: Enabled or Disabled.
    #[schemars(extend("pattern" = "^(Enabled|Disabled)$"))]
    auto_create: Option<String>,
    /// Whether there is that one, beside those of templates: Enabled, if nothing stands here, or Disabled.
    #[schemars(extend("pattern" = "^(Enabled|Disabled)$"))]
    create_default_host_endpoint: Option<String>,
    /// Further ones, each of the nodes that it selects.
    templates: Option<Vec<HostTemplate>>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is only described")]
struct HostTemplate {
    /// What stands between the node's name and -auto-hep.
    generate_name: Option<String>,
    /// Which nodes; all, if nothing stands here.
    node_selector: Option<String>,
    /// One for each of the node's interfaces whose name has this, a regular expression.
    interface_pattern: Option<String>,
    /// Of the node's addresses those in these networks; a node that has none there has no such host endpoint, unless there is a pattern.
    #[schemars(rename = "interfaceCIDRs")]
    interface_cidrs: Option<Vec<String>>,
    /// Beside the node's.
    labels: Option<std::collections::BTreeMap<String, String>>,
    /// Of the host endpoint.
    annotations: Option<std::collections::BTreeMap<String, String>>,
}
