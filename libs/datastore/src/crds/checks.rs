//! What an API server checks by itself: Calico's rules (libcalico-go/lib/validator/v3) as CEL, each with the sentence a user reads.
//! In: nothing. Out: `x-kubernetes-validations`.
//! Invariant: a check that a reader here makes is at most as strict as the reader; all of them are within the server's budget.
//! Never: the only one who checks: objects of a directory, and of clusters with Calico's definitions, meet the readers alone.

use serde_json::{Value, json};

/// A CEL expression that holds, and what is said where it does not.
pub(crate) struct Check(&'static str, &'static str);

impl Check {
    pub(super) fn said(&self) -> Value {
        json!({ "rule": self.0, "message": self.1 })
    }
}

/// As the schema has them.
pub(crate) fn of(checks: &[Check]) -> Value {
    checks.iter().map(Check::said).collect()
}

pub(crate) const TIER: &[Check] = &[
    Check(
        "size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",
        "the name of a tier has no dots and at most 63 characters",
    ),
    Check(
        "self.metadata.name != 'default' || (!has(self.spec.order) || self.spec.order == 1000000.0) \
         && (!has(self.spec.defaultAction) || self.spec.defaultAction == 'Deny')",
        "the tier 'default' always has order 1000000 and defaultAction Deny",
    ),
    Check(
        "self.metadata.name != 'kube-admin' || (!has(self.spec.order) || self.spec.order == 1000.0) \
         && (!has(self.spec.defaultAction) || self.spec.defaultAction == 'Pass')",
        "the tier 'kube-admin' always has order 1000 and defaultAction Pass",
    ),
    Check(
        "self.metadata.name != 'kube-baseline' || (!has(self.spec.order) || self.spec.order == 10000000.0) \
         && (!has(self.spec.defaultAction) || self.spec.defaultAction == 'Pass')",
        "the tier 'kube-baseline' always has order 10000000 and defaultAction Pass",
    ),
];

pub(crate) const SELECTOR: &[Check] =
    &[Check("!self.contains('global(')", "global() may stand in the namespaceSelector of a rule only")];

pub(crate) const NET: &[Check] =
    &[Check("isCIDR(self) || isIP(self)", "must be a network such as 10.0.0.0/8 or fd00::/8, or an address")];

pub(crate) const ENTITY: &[Check] = &[
    Check(
        "!has(self.services) || (has(self.services.name) && size(self.services.name) > 0)",
        "services needs the name of a service",
    ),
    Check(
        "!has(self.services) || (!has(self.nets) || size(self.nets) == 0) && (!has(self.notNets) || size(self.notNets) == 0)",
        "nets and notNets cannot stand beside services",
    ),
    Check(
        "!has(self.services) || (!has(self.selector) || size(self.selector) == 0) \
         && (!has(self.notSelector) || size(self.notSelector) == 0)",
        "selector and notSelector cannot stand beside services",
    ),
    Check(
        "!has(self.services) || (!has(self.namespaceSelector) || size(self.namespaceSelector) == 0) && !has(self.serviceAccounts)",
        "namespaceSelector and serviceAccounts cannot stand beside services",
    ),
];

pub(crate) const ICMP: &[Check] = &[Check("!has(self.code) || has(self.type)", "a code needs a type beside it")];

pub(crate) const RULE: &[Check] = &[
    // That numbers of ports need a protocol at all is left to the reader: to look at each of them would cost too much here.
    Check(
        "!has(self.protocol) || self.protocol != 'ICMP' && self.protocol != 1 && self.protocol != 'ICMPv6' && self.protocol != 58 \
         && self.protocol != 'UDPLite' && self.protocol != 136 \
         || (!has(self.source) || (!has(self.source.ports) || size(self.source.ports) == 0) \
         && (!has(self.source.notPorts) || size(self.source.notPorts) == 0)) \
         && (!has(self.destination) || (!has(self.destination.ports) || size(self.destination.ports) == 0) \
         && (!has(self.destination.notPorts) || size(self.destination.notPorts) == 0))",
        "ports and notPorts need protocol TCP, UDP or SCTP in the rule",
    ),
    Check(
        "!has(self.icmp) && !has(self.notICMP) || has(self.protocol) && (self.protocol == 'ICMP' || self.protocol == 1 \
         || self.protocol == 'ICMPv6' || self.protocol == 58)",
        "icmp and notICMP need protocol ICMP or ICMPv6 in the rule",
    ),
    Check(
        "!has(self.ipVersion) || self.ipVersion == 4 \
         || (!has(self.protocol) || self.protocol != 'ICMP' && self.protocol != 1) \
         && (!has(self.notProtocol) || self.notProtocol != 'ICMP' && self.notProtocol != 1)",
        "ICMP goes with ipVersion 4, ICMPv6 with 6",
    ),
    Check(
        "!has(self.ipVersion) || self.ipVersion == 6 \
         || (!has(self.protocol) || self.protocol != 'ICMPv6' && self.protocol != 58) \
         && (!has(self.notProtocol) || self.notProtocol != 'ICMPv6' && self.notProtocol != 58)",
        "ICMP goes with ipVersion 4, ICMPv6 with 6",
    ),
];

pub(crate) const POLICY: &[Check] = &[
    Check(
        "!has(self.ingress) || self.ingress.all(rule, !has(rule.destination) || !has(rule.destination.services))",
        "services cannot say who receives in an ingress rule; they may stand in source",
    ),
    Check(
        "!has(self.egress) || self.egress.all(rule, !has(rule.source) || !has(rule.source.services))",
        "services cannot say who sends in an egress rule; they may stand in destination",
    ),
    Check(
        "!has(self.egress) || self.egress.all(rule, !has(rule.destination) || !has(rule.destination.services) \
         || (!has(rule.destination.ports) || size(rule.destination.ports) == 0) \
         && (!has(rule.destination.notPorts) || size(rule.destination.notPorts) == 0))",
        "ports and notPorts cannot stand beside services in an egress rule",
    ),
];

pub(super) const NAMESPACED: &[Check] = &[Check(
    "!has(self.namespaceSelector) && !(has(self.doNotTrack) && self.doNotTrack) && !(has(self.preDNAT) && self.preDNAT) \
     && !(has(self.applyOnForward) && self.applyOnForward)",
    "namespaceSelector, doNotTrack, preDNAT and applyOnForward stand in a GlobalNetworkPolicy only",
)];

pub(super) const GLOBAL: &[Check] = &[
    Check(
        "!(has(self.doNotTrack) && self.doNotTrack && has(self.preDNAT) && self.preDNAT)",
        "preDNAT cannot be true together with doNotTrack",
    ),
    Check(
        "!(has(self.preDNAT) && self.preDNAT) || (!has(self.egress) || size(self.egress) == 0) \
         && (!has(self.types) || !self.types.exists(type, type == 'Egress'))",
        "preDNAT is for ingress alone; put the egress rules into another policy",
    ),
    Check(
        "!(has(self.doNotTrack) && self.doNotTrack) && !(has(self.preDNAT) && self.preDNAT) \
         || has(self.applyOnForward) && self.applyOnForward",
        "applyOnForward must be true where doNotTrack or preDNAT is",
    ),
];

pub(crate) const HOST_ENDPOINT: &[Check] = &[
    Check("has(self.node) && size(self.node) > 0", "needs the name of a node"),
    Check(
        "has(self.interfaceName) && size(self.interfaceName) > 0 || has(self.expectedIPs) && size(self.expectedIPs) > 0",
        "needs the name of an interface, \"*\" for all of the node, or an address that is expected",
    ),
];

pub(crate) const ADDRESS: &[Check] = &[Check("isIP(self)", "must be an IPv4 or IPv6 address")];

pub(crate) const POOL_CIDR: &[Check] = &[
    Check(
        "isCIDR(self) && cidr(self) == cidr(self).masked()",
        "must be a network without host bits, such as 10.0.0.0/16",
    ),
    Check("self == oldSelf", "the network of a pool cannot change; make another pool, and disable this one"),
];

pub(crate) const POOL_BLOCK_SIZE: &[Check] =
    &[Check("self == oldSelf", "the block size of a pool cannot change; make another pool, and disable this one")];

pub(crate) const POOL: &[Check] = &[
    Check(
        "!isCIDR(self.cidr) || !has(self.blockSize) || self.blockSize == 0 || (cidr(self.cidr).ip().family() == 4 \
         ? self.blockSize >= 20 && self.blockSize <= 32 : self.blockSize >= 116 && self.blockSize <= 128)",
        "blockSize is 20 to 32 for IPv4, 116 to 128 for IPv6",
    ),
    Check(
        "!isCIDR(self.cidr) || has(self.disabled) && self.disabled || cidr(self.cidr).prefixLength() <= \
         (has(self.blockSize) && self.blockSize != 0 ? self.blockSize : cidr(self.cidr).ip().family() == 4 ? 26 : 122)",
        "one block of blockSize must fit into the pool's network",
    ),
    Check(
        "!has(self.ipipMode) || !has(self.vxlanMode) || self.ipipMode in ['', 'Never'] || self.vxlanMode in ['', 'Never']",
        "ipipMode and vxlanMode cannot both wrap",
    ),
    Check(
        "!has(self.allowedUses) || !self.allowedUses.exists(use, use == 'LoadBalancer') \
         || self.allowedUses.all(use, use == 'LoadBalancer')",
        "LoadBalancer is a use of its own: pods and services do not share a pool",
    ),
];
