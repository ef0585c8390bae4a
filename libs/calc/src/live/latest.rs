//! The latest Desired, with what of it may differ from the one before.
//! In: the writes of a refresh. Out: [`Latest`], numbered in the order they are handed out.
//! Invariant: a key that one does not name has the same value as in the one before.
//! Never: a write that is not noted.

use crate::{AddressSpec, Desired, EndpointSpec, HostEndpointSpec, IpipSpec, NodeRoute, NodeSpec, TunnelSpec};
use model::{AttachmentId, Cidr, IfaceName};
use policy::Class;
use service::{Balance, Frontend};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Deref,
    sync::Arc,
};

/// What may be other than it was, of what grows with the cluster. Endpoints are those of one node: whoever follows looks
/// at them all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Exact addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Networks.
    pub nets: BTreeSet<Cidr>,
    /// Where services are reached.
    pub services: BTreeSet<Frontend>,
    /// Where packets to other nodes' pods go.
    pub routes: BTreeSet<Cidr>,
}

/// Between two of the same number.
static NOTHING: Touched =
    Touched { addresses: BTreeSet::new(), nets: BTreeSet::new(), services: BTreeSet::new(), routes: BTreeSet::new() };

/// What is desired now.
#[derive(Clone, Copy, Debug)]
pub struct Latest<'a> {
    desired: &'a Desired,
    /// Its number, and what it changed in the one before. `None`: it stands alone.
    follows: Option<(u64, &'a Touched)>,
}

impl<'a> Latest<'a> {
    /// The one of this number, which differs from the one before in what was `touched`.
    #[must_use]
    pub fn numbered(desired: &'a Desired, number: u64, touched: &'a Touched) -> Self {
        Self { desired, follows: Some((number, touched)) }
    }

    /// Its number, for whoever has made it so; `None`: nothing follows it.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.follows.map(|(number, _)| number)
    }

    /// What may differ from the one of that number; `None`: anything.
    #[must_use]
    pub fn since(&self, number: Option<u64>) -> Option<&'a Touched> {
        let (own, touched) = self.follows?;
        let number = number?;
        if number == own { Some(&NOTHING) } else { (number + 1 == own).then_some(touched) }
    }
}

/// It stands alone.
impl<'a> From<&'a Desired> for Latest<'a> {
    fn from(desired: &'a Desired) -> Self {
        Self { desired, follows: None }
    }
}

impl Deref for Latest<'_> {
    type Target = Desired;

    fn deref(&self) -> &Desired {
        self.desired
    }
}

/// The present Desired, and what was written to it since it was last handed out.
#[derive(Clone, Debug, Default)]
pub(super) struct Followed {
    desired: Desired,
    number: u64,
    touched: Touched,
    since: Touched,
}

/// The part of this node alone, which is not followed.
pub(super) struct Own<'a> {
    pub(super) endpoints: &'a mut BTreeMap<AttachmentId, EndpointSpec>,
    pub(super) host_endpoints: &'a mut BTreeMap<IfaceName, HostEndpointSpec>,
    pub(super) node: &'a mut NodeSpec,
    pub(super) tunnel: &'a mut Option<Arc<TunnelSpec>>,
    pub(super) ipip: &'a mut Option<Arc<IpipSpec>>,
}

impl Followed {
    /// As it is now: of the same number as before, if nothing was written since.
    pub(super) fn latest(&mut self) -> Latest<'_> {
        if self.since != NOTHING {
            self.number += 1;
            self.touched = std::mem::take(&mut self.since);
        }
        Latest::numbered(&self.desired, self.number, &self.touched)
    }

    pub(super) fn put_address(&mut self, address: IpAddr, spec: Option<AddressSpec>) {
        put(&mut self.desired.addresses, &mut self.since.addresses, address, spec);
    }

    pub(super) fn put_net(&mut self, net: Cidr, class: Option<Arc<Class>>) {
        put(&mut self.desired.nets, &mut self.since.nets, net, class);
    }

    pub(super) fn put_service(&mut self, frontend: Frontend, balance: Option<Arc<Balance>>) {
        put(&mut self.desired.services, &mut self.since.services, frontend, balance);
    }

    pub(super) fn put_route(&mut self, to: Cidr, way: Option<NodeRoute>) {
        put(&mut self.desired.routes, &mut self.since.routes, to, way);
    }

    /// Frontends that were written since it was last handed out.
    pub(super) fn written(&self) -> impl Iterator<Item = &Frontend> {
        self.since.services.iter()
    }

    pub(super) fn own(&mut self) -> Own<'_> {
        let Desired { endpoints, host_endpoints, node, tunnel, ipip, .. } = &mut self.desired;
        Own { endpoints, host_endpoints, node, tunnel, ipip }
    }
}

impl Deref for Followed {
    type Target = Desired;

    fn deref(&self) -> &Desired {
        &self.desired
    }
}

fn put<K: Ord + Copy, V: PartialEq>(map: &mut BTreeMap<K, V>, touched: &mut BTreeSet<K>, key: K, value: Option<V>) {
    if map.get(&key) != value.as_ref() {
        touched.insert(key);
    }
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
