//! The World: the last known state of everything this node was told.
//! In: datastore updates, attachments of the CNI, this host's addresses. Out: [`InSync`], the only way to a Desired.
//! Invariant: an update replaces; nothing depends on the order in which things were told.
//! Never: forgets an object because another is missing.

use model::{
    Attachment, AttachmentId, IpPool, Labels, Namespace, NamespaceName, Node, NodeName, Pod, PodId, Policy, PolicyId,
    Resource, ResourceKey, ServiceAccount, Update, WorkloadAddress,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// The last known state.
#[derive(Clone, Debug)]
pub struct World {
    pub(crate) node: NodeName,
    pub(crate) keep_established: bool,
    in_sync: bool,
    pub(crate) pods: BTreeMap<PodId, Pod>,
    pub(crate) namespaces: BTreeMap<NamespaceName, Labels>,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    pub(crate) accounts: BTreeMap<(NamespaceName, String), ServiceAccount>,
    pub(crate) policies: BTreeMap<PolicyId, Policy>,
    pub(crate) pools: BTreeMap<String, IpPool>,
    pub(crate) published: BTreeMap<PodId, WorkloadAddress>,
    pub(crate) attachments: BTreeMap<AttachmentId, Attachment>,
    pub(crate) host: BTreeSet<IpAddr>,
}

/// Proof that every watched kind has delivered its first full list.
#[derive(Clone, Copy, Debug)]
pub struct InSync<'a>(pub(crate) &'a World);

impl World {
    /// An empty world, seen from `node`. `keep_established`: allowed flows outlive a new deny.
    #[must_use]
    pub fn new(node: NodeName, keep_established: bool) -> Self {
        Self {
            node,
            keep_established,
            in_sync: false,
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
            accounts: BTreeMap::new(),
            policies: BTreeMap::new(),
            pools: BTreeMap::new(),
            published: BTreeMap::new(),
            attachments: BTreeMap::new(),
            host: BTreeSet::new(),
        }
    }

    /// Takes in one change of the datastore.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Set(resource) => self.set(resource),
            Update::Gone(key) => self.remove(&key),
            Update::InSync => self.in_sync = true,
        }
    }

    fn set(&mut self, resource: Resource) {
        match resource {
            Resource::Pod(pod) => drop(self.pods.insert(pod.id.clone(), pod)),
            Resource::Namespace(Namespace { name, labels }) => drop(self.namespaces.insert(name, labels)),
            Resource::Node(node) => drop(self.nodes.insert(node.name.clone(), node)),
            Resource::ServiceAccount(account) => {
                drop(self.accounts.insert((account.namespace.clone(), account.name.clone()), account));
            }
            Resource::Policy(policy) => drop(self.policies.insert(policy.id.clone(), policy)),
            Resource::IpPool(pool) => drop(self.pools.insert(pool.name.clone(), pool)),
            Resource::WorkloadAddress(address) => drop(self.published.insert(address.pod.clone(), address)),
        }
    }

    fn remove(&mut self, key: &ResourceKey) {
        match key {
            ResourceKey::Pod(id) => drop(self.pods.remove(id)),
            ResourceKey::Namespace(name) => drop(self.namespaces.remove(name)),
            ResourceKey::Node(name) => drop(self.nodes.remove(name)),
            ResourceKey::ServiceAccount(namespace, name) => {
                drop(self.accounts.remove(&(namespace.clone(), name.clone())));
            }
            ResourceKey::Policy(id) => drop(self.policies.remove(id)),
            ResourceKey::IpPool(name) => drop(self.pools.remove(name)),
            ResourceKey::WorkloadAddress(id) => drop(self.published.remove(id)),
        }
    }

    /// Takes in, or replaces, an attachment of this node. It becomes an endpoint once it is `committed`.
    pub fn attach(&mut self, attachment: Attachment) {
        self.attachments.insert(attachment.id.clone(), attachment);
    }

    /// Forgets an attachment.
    pub fn detach(&mut self, id: &AttachmentId) -> Option<Attachment> {
        self.attachments.remove(id)
    }

    /// The addresses this host has now, loopback and link-local ones left out.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.host = addresses;
    }

    /// `Some` once the datastore has said everything it has.
    #[must_use]
    pub fn in_sync(&self) -> Option<InSync<'_>> {
        self.in_sync.then_some(InSync(self))
    }
}
