//! Links, addresses, routes, neighbours, filters, sockets and their peers, sysctls and namespaces as typed, synchronous, bounded calls.
//! In: values of `model`. Out: what the kernel holds, or one clear error with the kernel's own word for it.
//! Invariant: a socket belongs to the namespace it was opened in; every request has a timeout.
//! Never: decides what should be there.

mod address;
mod diag;
mod error;
mod filter;
mod link;
pub mod namespace;
mod neighbour;
pub mod netfilter;
mod peer;
mod route;
mod socket;
pub mod sysctl;
pub mod watch;

pub use address::Address;
pub use diag::{Connected, Diag};
pub use error::{Error, Reason};
pub use filter::{Filter, Side};
pub use link::{LOOPBACK, Link, LinkChange, VethSpec, VxlanSpec};
pub use neighbour::Neighbour;
pub use peer::peer_uid;
pub use route::{MAIN_TABLE, Route, RouteKind, Scope};
pub use socket::Socket;
