//! Workloads: pods as policies see them, joined from manifests, local attachments and what other nodes published.
//! In: [`World`]. Out: one [`Workload`] per pod that is subject or peer, and whose each address is.
//! Invariant: an address belongs to one workload or to the host; who wins does not depend on the order of telling.
//! Never: a host-network or finished pod (NP-55, NP-60); an attachment that is not committed.

use crate::World;
use model::{Attachment, AttachmentId, EffectiveLabels, Labels, NamedPort, NamespaceName, Parent, Pod, PodId, Profile};
use policy::PodFacts;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// A pod that is subject or peer.
#[derive(Clone, Debug)]
pub(crate) struct Workload<'a> {
    pub(crate) id: &'a PodId,
    /// `None`: nobody described its namespace.
    namespace_labels: Option<&'a Labels>,
    pub(crate) labels: &'a Labels,
    /// The name of its service account; `None`: nobody has said.
    pub(crate) account: Option<&'a str>,
    /// `None`: nobody described its account.
    account_labels: Option<&'a Labels>,
    /// The profiles that it names; `None`: its namespace's, implied unless an object gives it, and its account's.
    pub(crate) named: Option<&'a [Arc<str>]>,
    /// What its profiles apply, in order.
    applied: [Option<&'a Labels>; Profile::NAMED_MAX],
    /// `None`: nobody described it.
    pub(crate) ports: Option<&'a [NamedPort]>,
    /// Its addresses, each with the local endpoint that has it.
    pub(crate) addresses: BTreeMap<IpAddr, Option<&'a AttachmentId>>,
    pub(crate) attachments: Vec<&'a Attachment>,
}

impl<'a> Workload<'a> {
    pub(crate) fn facts(&self) -> PodFacts<'a> {
        let account = self.account.map_or(Parent::Unknown, |name| Parent::Named { name, labels: self.account_labels });
        let labels = EffectiveLabels::pod(self.labels, &self.id.namespace, self.namespace_labels, account);
        PodFacts { labels: labels.with_applied(self.applied.into_iter().flatten()), ports: self.ports }
    }
}

/// All workloads by pod, every address with the one that has it.
pub(crate) fn workloads(world: &World) -> Vec<Workload<'_>> {
    let attached = attached(world);
    let ids: BTreeSet<&PodId> =
        world.pods.keys().chain(world.published.keys()).chain(attached.keys().copied()).collect();
    let join = |id| join(world, id, attached.get(id).cloned().unwrap_or_default());
    settle(world, ids.into_iter().filter_map(join).collect())
}

/// One pod, with every address that it claims. `None`: it is no workload.
pub(crate) fn workload<'a>(world: &'a World, id: &PodId) -> Option<Workload<'a>> {
    let own = world.attached.get(id).into_iter().flatten().filter_map(|id| world.attachments.get(id));
    let attachments: Vec<_> = own.filter(|attachment| attachment.committed).collect();
    let known = world.pods.get_key_value(id).map(|(id, _)| id);
    let known = known.or_else(|| world.published.get_key_value(id).map(|(id, _)| id));
    join(world, known.or_else(|| attachments.first().map(|attachment| &attachment.pod))?, attachments)
}

fn attached(world: &World) -> BTreeMap<&PodId, Vec<&Attachment>> {
    let mut attached: BTreeMap<&PodId, Vec<&Attachment>> = BTreeMap::new();
    for attachment in world.attachments.values().filter(|attachment| attachment.committed) {
        attached.entry(&attachment.pod).or_default().push(attachment);
    }
    attached
}

/// What the datastore says of a pod. What it says of another container than is attached here is of an earlier pod of that name, or
/// of one on another node: what the ADD said holds until it says something of this one.
pub(crate) fn described<'a>(world: &'a World, id: &PodId) -> Option<&'a Pod> {
    let own = || world.attached.get(id).into_iter().flatten().filter_map(|id| world.attachments.get(id));
    world.pod(id).filter(|pod| {
        let Some(container) = &pod.container else { return true };
        let mut committed = own().filter(|attachment| attachment.committed).peekable();
        committed.peek().is_none() || committed.any(|attachment| *attachment.id.container == **container)
    })
}

/// A manifest's labels count where there is one. A veth of its own makes a pod a workload, whatever its manifest says
/// of the host's network.
fn join<'a>(world: &'a World, id: &'a PodId, attachments: Vec<&'a Attachment>) -> Option<Workload<'a>> {
    let manifest = described(world, id);
    let published = world.published.get(id).filter(|published| published.node != world.node);
    if manifest.is_some_and(|pod| pod.finished || pod.host_network && attachments.is_empty()) {
        return None;
    }
    let labels = manifest
        .map(|pod| &pod.labels)
        .or_else(|| attachments.first().map(|attachment| &attachment.labels))
        .or_else(|| published.map(|published| &published.labels))?;
    let addresses = addresses(&attachments, published.map(|published| &*published.addresses), manifest);
    let ports = manifest.map(|pod| &*pod.ports);
    let account = manifest.and_then(|pod| pod.service_account.as_deref());
    let named = manifest.and_then(|pod| pod.profiles.as_deref()).or_else(|| lacks_its_own(world, &id.namespace));
    Some(Workload {
        id,
        namespace_labels: world.namespaces.get(&id.namespace),
        labels,
        account,
        account_labels: account.and_then(|account| world.account(&id.namespace, account)),
        named,
        applied: applied(world, (&id.namespace, account), named),
        ports,
        addresses,
        attachments,
    })
}

/// No profile at all, where the namespace's is not there and that is to be told.
fn lacks_its_own(world: &World, namespace: &NamespaceName) -> Option<&'static [Arc<str>]> {
    let is_there =
        || world.namespaces.contains_key(namespace) || world.profiles.contains_key(&Profile::of_namespace(namespace));
    (world.profiles_are_told && !is_there()).then_some(&[])
}

/// Profiles that objects describe are few, and most clusters have none.
fn applied<'a>(
    world: &'a World,
    (namespace, account): (&NamespaceName, Option<&str>),
    named: Option<&[Arc<str>]>,
) -> [Option<&'a Labels>; Profile::NAMED_MAX] {
    let mut applied = [None; Profile::NAMED_MAX];
    if world.profiles.is_empty() {
        return applied;
    }
    let labels = |name: &str| world.profiles.get(name).map(|profile| &profile.labels);
    match named {
        Some(named) => applied.iter_mut().zip(named).for_each(|(place, name)| *place = labels(name)),
        None => {
            applied[0] = labels(&Profile::of_namespace(namespace));
            applied[1] = account.and_then(|account| labels(&Profile::of_account(namespace, account)));
        }
    }
    applied
}

/// What was attached here is true; what the attaching node's agent published is next; a manifest's status is hearsay.
fn addresses<'a>(
    attachments: &[&'a Attachment],
    published: Option<&[IpAddr]>,
    manifest: Option<&Pod>,
) -> BTreeMap<IpAddr, Option<&'a AttachmentId>> {
    if !attachments.is_empty() {
        let of = |attachment: &&'a Attachment| {
            let id = &attachment.id;
            attachment.addresses.iter().map(move |address| (*address, Some(id)))
        };
        return attachments.iter().rev().flat_map(of).collect();
    }
    let known = published.or_else(|| manifest.map(|pod| &*pod.addresses)).unwrap_or_default();
    known.iter().map(|address| (*address, None)).collect()
}

/// Leaves each address to one: the host, then a local endpoint, then the smaller pod.
fn settle<'a>(world: &World, mut workloads: Vec<Workload<'a>>) -> Vec<Workload<'a>> {
    let mut winners: BTreeMap<IpAddr, (bool, &PodId)> = BTreeMap::new();
    for workload in &workloads {
        for (address, local) in &workload.addresses {
            let claim = (local.is_none(), workload.id);
            winners.entry(*address).and_modify(|winner| *winner = claim.min(*winner)).or_insert(claim);
        }
    }
    for workload in &mut workloads {
        let id = workload.id;
        workload.addresses.retain(|address, _| {
            !world.host.contains(address) && winners.get(address).is_some_and(|(_, winner)| *winner == id)
        });
    }
    workloads
}
