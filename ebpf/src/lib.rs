//! The stages of a packet's way, as functions over values.
//! In: a frame's bytes, what the context says of it, and the tables. Out: a verdict, or the reason of a drop.
//! Invariant: nothing here calls the kernel, so every stage runs on the host under test as it runs in the programs.
//! Never: `unsafe`, a map, a helper; a loop without a bound.
#![cfg_attr(not(any(test, feature = "fake")), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod about;
#[cfg(test)]
mod accounts;
#[cfg(test)]
mod again;
mod ahead;
mod announced;
#[cfg(test)]
mod answered;
pub mod antispoof;
pub mod asked;
#[cfg(test)]
mod beside;
mod between;
mod by_host;
pub mod choice;
#[cfg(test)]
mod connects;
pub mod conntrack;
pub mod crc32c;
pub mod currency;
mod ends;
pub mod entry;
#[cfg(test)]
mod everywhere;
pub mod expiry;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
mod fake_flows;
#[cfg(any(test, feature = "fake"))]
mod fake_services;
#[cfg(any(test, feature = "fake"))]
mod fake_twin;
#[cfg(test)]
mod floating;
mod flow;
pub mod forward;
pub mod fragment;
mod frontend;
mod gate;
#[cfg(test)]
mod gates;
mod hosted;
pub mod icmp;
pub mod icmp_error;
pub mod ipip;
mod judge;
mod known;
mod lead;
#[cfg(test)]
mod led;
#[cfg(test)]
mod led_beside;
#[cfg(any(test, feature = "fake"))]
mod made;
mod mask;
#[cfg(test)]
mod masked;
mod masquerade;
#[cfg(test)]
mod masqueraded;
#[cfg(test)]
mod masqueraded_errors;
#[cfg(test)]
mod masqueraded_ports;
#[cfg(test)]
mod masqueraded_services;
pub mod neighbour;
#[cfg(test)]
mod noted;
#[cfg(test)]
mod opened;
#[cfg(test)]
mod opened_beside;
pub mod options;
#[cfg(test)]
mod outside;
mod own;
pub mod parse;
#[cfg(test)]
mod passage;
mod place;
pub mod policy;
mod promote;
#[cfg(test)]
mod quoted;
pub mod ranges;
pub mod recent;
pub mod reset;
pub mod rewrite;
#[cfg(test)]
mod served;
mod service;
#[cfg(test)]
mod services;
#[cfg(any(test, feature = "fake"))]
pub mod shelf;
pub mod sockets;
#[cfg(test)]
mod spans;
#[cfg(test)]
mod spec;
mod states;
pub mod tables;
#[cfg(test)]
mod tracking;
pub mod translation;
pub mod tunnel;
pub mod walk;
