//! The semantics as a specification: conformance rows said with small casts, and random worlds.
//! In: nothing. Out: rows that name what must be allowed and what refused.
//! Invariant: every question is put to the evaluator and to the compiled rows, and they agree.
//! Never: a kernel; the differential test of programs is elsewhere.

mod agreement;
mod cast;
mod cluster;
mod conflict;
mod cyclonus;
mod egress;
mod ends;
mod hosts;
mod ingress;
mod layers;
mod nearest;
mod packets;
mod ports;
mod row;
mod services;
mod sources;
mod staged;
mod tiers;
mod unknown;
