//! What the cluster says, in the nouns of Kubernetes and Calico. Pure: values, their order and their text.
//! In: fields already parsed. Out: types whose invariants hold by construction.
//! Invariant: every value prints in one way and compares in one way.
//! Never: does I/O, reads a clock, knows of maps or of YAML.
#![forbid(unsafe_code)]

pub mod attachment;
pub mod label;
pub mod name;
pub mod net;
pub mod policy;
pub mod pool;
pub mod resource;
pub mod selector;
pub mod update;

pub use attachment::{Attachment, AttachmentId, FIRST_INTERFACE};
pub use label::Labels;
pub use name::{NamespaceName, NodeName, PodId, PolicyId, PolicyKind, PortName};
pub use net::{Cidr, IfaceName, Ifindex, Mac, PortRange, Protocol};
pub use policy::{
    Action, Direction, NamespaceMatch, Order, PeerMatch, PeerSelector, Policy, PolicyTypes, PortMatch, Rule,
};
pub use pool::IpPool;
pub use resource::{NamedPort, Namespace, Node, Pod, Resource, ResourceKey, ServiceAccount, WorkloadAddress};
pub use selector::{EffectiveLabels, Incomplete, InvalidSelector, Label, LabelView, Parent, Selector, Truth};
pub use update::Update;
