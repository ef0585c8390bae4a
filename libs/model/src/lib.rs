//! What the cluster says, in the nouns of Kubernetes and Calico. Pure: values, their order and their text.
//! In: fields already parsed. Out: types whose invariants hold by construction.
//! Invariant: every value prints in one way and compares in one way.
//! Never: does I/O, reads a clock, knows of maps or of YAML.
#![forbid(unsafe_code)]

pub mod asks;
mod attachment;
pub mod bgp;
pub mod endpointslice;
pub mod felix;
pub mod hostendpoint;
pub mod hostport;
pub mod label;
pub mod name;
pub mod net;
pub mod networkset;
pub mod node_addresses;
pub mod node_status;
pub mod order;
pub mod policy;
pub mod pool;
pub mod profile;
pub mod resource;
pub mod rule;
pub mod selector;
pub mod service;
pub mod shared;
pub mod tier;
pub mod update;
pub mod vtep;

pub use asks::{Keeps, PodAsks};
pub use attachment::{Attachment, AttachmentId, FIRST_INTERFACE};
pub use bgp::{
    AsNumber, BgpConfiguration, BgpFilter, BgpLog, BgpOperation, BgpPeer, BgpRule, Community, NetMatch, NextHop,
    NodeBgp, Password, PeerNodes, PeerWith, SecretKey,
};
pub use endpointslice::{EndpointSlice, EndpointSliceId, Hints, SliceEndpoint, SlicePort};
pub use felix::{DenyAction, EndpointToHost, Failsafe, FelixConfiguration, LogLevel};
pub use hostendpoint::{HostEndpoint, HostInterface};
pub use hostport::HostPort;
pub use label::{Labels, SharedLabels};
pub use name::{NamespaceName, NodeName, PodId, PolicyId, PolicyKind, PortName, TierName};
pub use net::{Cidr, Family, IfaceName, Ifindex, Mac, PortRange, Protocol};
pub use networkset::{NetworkSet, NetworkSetId};
pub use node_addresses::{InvalidPrefixed, NodeAddresses, Prefixed, ToldAddresses};
pub use node_status::{StatusAsked, StatusClass};
pub use order::Order;
pub use policy::{Direction, Layer, Policy, PolicyTypes, Stage};
pub use pool::{BlockClaim, IpPool, IpReservation, IpamConfig, PoolUses, Wrapper, Wrapping};
pub use profile::Profile;
pub use resource::{
    FloatingIps, NamedPort, Namespace, Node, Pod, Resource, ResourceKey, ServiceAccount, WorkloadAddress,
};
pub use rule::{Action, EntityMatch, IcmpMatch, PortMatch, Rule};
pub use selector::{EffectiveLabels, Incomplete, InvalidSelector, Label, LabelView, Parent, Selector, Truth};
pub use service::{
    BalancerRequest, Created, Distribution, Service, ServiceAddresses, ServiceId, ServiceKind, ServicePort,
    ServicePortId, TrafficPolicy,
};
pub use shared::Shared;
pub use tier::{Tier, TierEnd};
pub use update::Update;
pub use vtep::{NodeVteps, Vtep, Vteps};
