//! The writes that the tables of services take, and what can be read back.
//! In: a step. Out: one [`ServiceWrite`] after another.
//! Invariant: words are stored whole, after what goes with them; a key is new, or goes.
//! Never: decides an order.

use abi::{Backend, Balancer, Frontend, ServiceKey};
use std::{collections::BTreeMap, sync::Arc};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceWrite {
    /// A list of backends' slots, and of the bounds after them, at an offset that nothing refers to.
    Members(u32, Arc<[u32]>),
    /// A balancer, under an id that no word has.
    Balancer(u32, Balancer),
    /// A backend's slot.
    Backend(u32, Backend),
    /// A frontend's words.
    Frontend(u32, Frontend),
    /// Where it is reached, new.
    Key(ServiceKey, u32),
    /// Takes that away.
    DeleteKey(ServiceKey),
    /// What is counted in a frontend's slot is another's from now on.
    FreshFrontend(u32),
    /// What is counted in a backend's slot is another's from now on.
    FreshBackend(u32),
}

/// Everything that can be read back, words as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Where frontends are reached.
    pub keys: BTreeMap<ServiceKey, u32>,
    /// Their words, and those of slot 0.
    pub frontends: BTreeMap<u32, Frontend>,
    /// The balancers that the words name.
    pub balancers: BTreeMap<u32, Balancer>,
    /// Their members, by the balancer's id.
    pub members: BTreeMap<u32, Arc<[u32]>>,
    /// Backends that are not all zero.
    pub backends: BTreeMap<u32, Backend>,
}
