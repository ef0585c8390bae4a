//! The CNI side: what the runtime says, what the agent is asked, what the runtime is told.
//! In: CNI environment and configuration. Out: requests to the agent, results in the shape of the asked version.
//! Invariant: requests are idempotent by (network, container, interface); every step has a deadline.
//! Never: talks to Kubernetes, starts an async runtime, writes anything but the result to standard output.
#![forbid(unsafe_code)]

pub mod client;
pub mod conf;
mod deadline;
mod delegate;
pub mod environment;
pub mod failure;
mod inspect;
pub mod ipam;
pub mod name;
pub mod plugin;
pub mod protocol;
pub mod readiness;
pub mod result;
mod steps;
mod wiring;
