//! BGP by BIRD: who this node speaks with, what it tells and what it takes, as BIRD 2 is told it; and what BIRD answers.
//! In: [`Facts`]. Out: [`Written`]: a configuration as text, and what of the objects could not be made so.
//! Invariant: equal facts make equal text; nothing from an object stands in the text unchecked.
//! Never: a session without what its object asks for: a filter or a password that is not there closes it.
#![forbid(unsafe_code)]

pub mod answer;
mod facts;
mod filter;
mod kernel;
mod node;
mod peers;
mod routes;
mod services;
mod status;
mod text;
mod write;

pub use answer::Session;
pub use facts::{Facts, Written};
pub use peers::{Kind, secrets};
pub use routes::Route;
pub use services::needs_slices;
pub use status::{NodeStatus, Said, status};
pub use write::configuration;

#[cfg(test)]
mod tests;
