//! Services: which backends stand behind which address and port. Pure.
//! In: a Service and its EndpointSlices. Out: [`Frontend`]s, each with its [`Balance`].
//! Invariant: kube-proxy's rules, and every list in order with each backend once.
//! Never: knows of maps or of packets; says what policy makes of a backend.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod balance;

pub use balance::{Backend, Backends, Balance, Frontend, Kind};
