//! The hooks: where a program sits, and which program that is.
//! In: nothing. Out: names in the object, sides of an interface, and the order of those that share one.
//! Invariant: every hook has a program and a twin of it.
//! Never: knows whether it is loaded.

use netlink::Side;

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Ingress of `cali*`: what a pod sends.
    FromWorkload,
    /// Egress of `cali*`: what the host's stack sends to a pod.
    ToWorkload,
    /// Ingress of the uplink.
    FromUplink,
    /// Ingress of an interface of the node's own that has a host endpoint.
    FromHostEndpoint,
    /// Its egress.
    ToHostEndpoint,
    /// Egress of the uplink, where processes of this node's answer in a service's name.
    ToUplink,
    /// Egress of the uplink and of loopback, where sockets of this node's are asked nothing when they call.
    FromNode,
    /// Ingress of the tunnel device.
    FromTunnel,
    /// Its egress.
    ToTunnel,
    /// Ingress of the uplink, before all else there, where packets come from other nodes by IPIP.
    FromIpip,
    /// Its egress, after all else there, where they go there by IPIP.
    ToIpip,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::FromWorkload,
        Self::ToWorkload,
        Self::FromUplink,
        Self::FromHostEndpoint,
        Self::ToHostEndpoint,
        Self::ToUplink,
        Self::FromNode,
        Self::FromTunnel,
        Self::ToTunnel,
        Self::FromIpip,
        Self::ToIpip,
    ];

    /// The program's name in the object.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromWorkload => "from_workload",
            Self::ToWorkload => "to_workload",
            Self::FromUplink => "from_uplink",
            Self::FromHostEndpoint => "from_host_endpoint",
            Self::ToHostEndpoint => "to_host_endpoint",
            Self::ToUplink => "to_uplink",
            Self::FromNode => "from_node",
            Self::FromTunnel => "from_tunnel",
            Self::ToTunnel => "to_tunnel",
            Self::FromIpip => "from_ipip",
            Self::ToIpip => "to_ipip",
        }
    }

    /// Which packets of its interface it sees.
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Self::FromWorkload | Self::FromUplink | Self::FromHostEndpoint | Self::FromTunnel | Self::FromIpip => {
                Side::Ingress
            }
            Self::ToWorkload
            | Self::ToHostEndpoint
            | Self::ToUplink
            | Self::FromNode
            | Self::ToTunnel
            | Self::ToIpip => Side::Egress,
        }
    }

    /// The twin that only answers.
    #[must_use]
    pub const fn twin(self) -> &'static str {
        match self {
            Self::FromWorkload => "from_workload_dry",
            Self::ToWorkload => "to_workload_dry",
            Self::FromUplink => "from_uplink_dry",
            Self::FromHostEndpoint => "from_host_endpoint_dry",
            Self::ToHostEndpoint => "to_host_endpoint_dry",
            Self::ToUplink => "to_uplink_dry",
            Self::FromNode => "from_node_dry",
            Self::FromTunnel => "from_tunnel_dry",
            Self::ToTunnel => "to_tunnel_dry",
            Self::FromIpip => "from_ipip_dry",
            Self::ToIpip => "to_ipip_dry",
        }
    }

    /// Those that come before it where they sit beside it, the last of them first: a host endpoint's rules are asked of what its
    /// interface takes in at all, and of what leaves it for the address and under the address that it leaves by. What is wrapped by IPIP
    /// is judged as what it is within.
    #[must_use]
    pub const fn after(self) -> &'static [Self] {
        match self {
            Self::FromUplink => &[Self::FromHostEndpoint, Self::FromIpip],
            Self::FromHostEndpoint => &[Self::FromIpip],
            Self::ToIpip => &[Self::ToHostEndpoint, Self::ToUplink, Self::FromNode],
            Self::ToHostEndpoint => &[Self::ToUplink, Self::FromNode],
            Self::ToUplink => &[Self::FromNode],
            Self::FromTunnel | Self::ToTunnel => &[],
            Self::FromWorkload | Self::ToWorkload | Self::FromNode | Self::FromIpip => &[],
        }
    }

    /// Whether pods wait for it.
    #[must_use]
    pub const fn is_pods(self) -> bool {
        matches!(self, Self::FromWorkload | Self::ToWorkload)
    }

    /// Those whose programs are of use only together.
    #[must_use]
    pub const fn together(self) -> &'static [Self] {
        match self {
            Self::FromWorkload | Self::ToWorkload => &[Self::FromWorkload, Self::ToWorkload],
            Self::FromUplink => &[Self::FromUplink],
            Self::ToUplink => &[Self::ToUplink],
            Self::FromNode => &[Self::FromNode],
            Self::FromTunnel | Self::ToTunnel => &[Self::FromTunnel, Self::ToTunnel],
            Self::FromHostEndpoint | Self::ToHostEndpoint => &[Self::FromHostEndpoint, Self::ToHostEndpoint],
            Self::FromIpip | Self::ToIpip => &[Self::FromIpip, Self::ToIpip],
        }
    }
}
