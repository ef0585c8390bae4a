//! Who owns which address. Pure: decisions as values.
//! In: pools, blocks as they are, and a wish. Out: what to write, with the revision it was decided on.
//! Invariant: an address has at most one owner; what is released goes to the back of the block's queue.
//! Never: reads or writes a datastore, reads a clock.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod affinity;
pub mod audit;
pub mod balancer;
pub mod block;
mod choose;
mod claim;
#[cfg(test)]
mod history;
pub mod hold;
pub mod ledger;
pub mod migrate;
mod plan;
mod pools;
#[cfg(test)]
mod prop;
mod release;
pub mod request;
pub mod split;
pub mod tracked;
mod tunnel;

pub use affinity::{AffinityState, BlockAffinity, IpamHandle, cidr_name, is_node_handle, node_handle, owner_of};
pub use balancer::{Balanced, BalancerWish};
pub use block::{AllocationAttribute, Block, InvalidBlock};
pub use ledger::{Clock, Kept, Ledger, Write};
pub use request::{AssignError, Request};
pub use tracked::Tracked;
pub use tunnel::{Tunnel, tunnel_attributes, tunnel_handle};
