//! Packet level: the real programs under BPF_PROG_TEST_RUN, on tables that the agent's own code committed.
//! In: tables of rows (name, packet, expectation) and generated cases. Out: which rows did not hold, and in which family.
//! Invariant: every row runs for IPv4 and IPv6 from the same text unless it says why not.
//! Never: passes without root; shares a map, an interface or a name with another run.

mod announced;
mod attaching;
mod capacity;
mod cast;
mod complaints;
mod cyclonus;
mod differential;
mod differential_hosts;
mod floating;
mod flows;
mod forwarding;
mod fragments;
mod frame;
mod gates;
mod growing;
mod icmp;
mod kept;
mod kernel;
mod limits;
mod malformed;
mod masqueraded;
mod mutants;
mod neighbours;
mod paths;
mod policies;
mod port;
mod receiving;
mod rejects;
mod revisions;
mod scenario;
mod services;
mod services_outside;
mod sizes;
mod spoofing;
mod stations;
mod storms;
mod table;
mod tracking;
mod tunnels;
mod twins;
mod verified;
mod wire;
mod wiring;
