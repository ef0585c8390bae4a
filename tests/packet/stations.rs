//! One node after another at the same station: what the tests' speed rests on.
//! In: a node whose tables are full of a test, then one of which nothing was said. Out: what the second finds.
//! Invariant: it finds programs that are verified, and else what a node finds that is the first of its machine.
//! Never: times anything.

use crate::{
    cast::{CLIENT, DB, Family, OTHER},
    frame::SYN,
    kernel::{Kernel, Seen, ip, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Action, Hook},
};
use abi::conntrack::QUOTA_ALL;
use model::{Direction, Protocol};
use netlink::Socket;
use std::collections::BTreeMap;

fn busy() -> Scenario {
    let web = policy("web", Some("db"), &[Direction::Ingress]).ingress(allow().port(Protocol::TCP, 80));
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other").policy(web)
}

/// Entries in use, by table.
fn used(kernel: &Kernel) -> BTreeMap<&'static str, Option<u64>> {
    let usages = kernel.dataplane.usages().expect("the maps can be read");
    usages.into_iter().map(|usage| (usage.map.name, usage.used)).collect()
}

fn number(kernel: &Kernel) -> u32 {
    kernel.program("from_workload").info().expect("the kernel tells of it").id()
}

fn links() -> Vec<String> {
    let links = Socket::open().and_then(|mut socket| socket.links()).expect("links are listed");
    links.into_iter().map(|link| link.name.0).collect()
}

/// Flows, a refusal, a lone first piece: something in every table that packets write.
fn traffic(kernel: &mut Kernel) {
    for family in Family::BOTH {
        let first = CLIENT.udp(family, OTHER, (4000, 53), &[7; 56]).fragment(0, 32, true);
        for (bytes, fate) in [
            (CLIENT.tcp(family, DB, (4000, 80), SYN).bytes(), Action::Redirect),
            (CLIENT.tcp(family, DB, (4000, 81), SYN).bytes(), Action::Drop),
            (first.bytes(), Action::Redirect),
        ] {
            assert_eq!(kernel.run(Hook::Pod(CLIENT), &bytes).action, fate, "{family:?}");
        }
    }
}

#[test]
fn a_node_finds_nothing_of_the_one_before_it_but_its_programs() {
    on_a_node(|| {
        let empty = used(&Kernel::alone(&Scenario::default()));
        let mut before = Kernel::new(&busy());
        traffic(&mut before);
        let (program, seen) = (number(&before), before.seen());
        ip("route add blackhole 203.0.113.0/24");
        assert!(!seen.entries.is_empty() && !seen.fragments.is_empty() && !seen.drops.is_empty() && seen.judged > 0);
        assert_ne!(used(&before), empty);
        drop(before);
        assert!(!links().iter().any(|name| name.starts_with("cali") || name.starts_with("uplink")), "{:?}", links());

        let mut next = Kernel::new(&Scenario::default());
        ip("route add blackhole 203.0.113.0/24");
        assert_eq!(number(&next), program, "it is not verified again");
        assert_eq!(next.seen(), Seen::default());
        assert_eq!(next.account(QUOTA_ALL), 0);
        assert_eq!(used(&next), empty);
        assert_eq!(next.entries(&abi::maps::NEWFLOW).len(), 0);
        next.commit(&busy());
        traffic(&mut next);
        assert_eq!(next.seen().judged, seen.judged, "and works as the first did");
    });
}

#[test]
fn nobody_takes_over_what_a_test_touched() {
    on_a_node(|| {
        let touched = Kernel::new(&busy());
        let (folder, program) = (touched.programs_dir(), number(&touched));
        drop(touched);
        assert!(!folder.exists(), "its pins are gone");
        assert_ne!(number(&Kernel::new(&busy())), program);
    });
}
