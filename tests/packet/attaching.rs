//! Attaching: by TCX or by clsact, from one to the other, and away again.
//! In: agents that follow each other on one node. Out: what hangs on its interfaces, and which frames got through.
//! Invariant: seen by the kernel's own lists; what is not ours is there before and after.
//! Never: concludes from silence; a frame that is let in marks the end of those that must not be.

use crate::{
    cast::{CLIENT, DB, Family},
    kernel::{Kernel, UPLINK, on_a_node},
    port::{OFFLOAD, Port},
    scenario::{Narrow as _, Rules as _, Scenario, allow, interface, policy},
};
use abi::DropReason;
use aya::programs::{SchedClassifier, TcAttachType};
use dataplane::Attach;
use model::{Direction, IfaceName, Protocol};
use netlink::{Filter, Side, Socket};
use std::{
    collections::BTreeSet,
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
};

/// What somebody else's filter is called.
const OTHERS: &str = "others/filter";

fn scenario() -> Scenario {
    let open = allow().port(Protocol::UDP, 80);
    Scenario::default()
        .pod(CLIENT, "client")
        .pod(DB, "db")
        .policy(policy("client-out", Some("client"), &[Direction::Egress]).egress(open))
}

/// Ways of attachment that this kernel knows.
fn ways() -> Vec<Attach> {
    let tcx = SchedClassifier::query_tcx(1u32, TcAttachType::Ingress).is_ok();
    if tcx { vec![Attach::Clsact, Attach::Tcx] } else { vec![Attach::Clsact] }
}

/// What hangs on the node's interfaces: interface, side and name.
fn attached(kernel: &Kernel) -> BTreeSet<String> {
    let mut socket = Socket::open().expect("netlink answers");
    let mut found = BTreeSet::new();
    for name in [interface(CLIENT), interface(DB), IfaceName(UPLINK.into())] {
        let index = kernel.index(&name);
        for (side, hook) in [(Side::Ingress, TcAttachType::Ingress), (Side::Egress, TcAttachType::Egress)] {
            let filters = socket.filters(index, side).expect("filters are listed");
            found.extend(filters.iter().map(|filter| format!("{name} filter {}", filter.name)));
            // An older kernel has none.
            let links = SchedClassifier::query_tcx(index.0, hook).map(|(_, programs)| programs).unwrap_or_default();
            found.extend(links.iter().map(|link| format!("{name} link {}", link.name_as_str().unwrap_or_default())));
        }
    }
    found
}

/// The same, as it should be.
fn wanted(by: &str) -> BTreeSet<String> {
    let cali = [CLIENT, DB].map(|actor| interface(actor).0);
    let programs = ["from_workload", "to_workload"];
    let pods = cali.iter().flat_map(|name| programs.map(|program| (name.as_str(), program)));
    pods.chain([(UPLINK, "from_uplink")]).map(|(name, program)| format!("{name} {by}{program}")).collect()
}

fn links_with_clsact() -> usize {
    Socket::open().and_then(|mut socket| socket.filtered_links()).expect("disciplines are listed").len()
}

fn foreign(kernel: &Kernel) -> Filter {
    let interface = kernel.index(&IfaceName(UPLINK.into()));
    Filter { interface, side: Side::Ingress, priority: 9, handle: 7, name: OTHERS.into(), program: None }
}

#[test]
fn own_2_one_program_sits_at_each_hook_whatever_way_the_former_agent_attached_it() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for attach in ways().into_iter().chain([Attach::Clsact]).chain(ways()) {
            // Twice: the second adopts what the first of the same way left.
            for _ in 0..2 {
                kernel.restart(attach);
                kernel.commit(&scenario());
                let (by, clsacts) = if attach == Attach::Tcx { ("link ", 0) } else { ("filter tortie/", 3) };
                assert_eq!(attached(&kernel), wanted(by), "{attach:?}");
                assert_eq!(links_with_clsact(), clsacts, "{attach:?}");
            }
        }
    });
}

#[test]
fn own_2_no_frame_slips_through_while_programs_and_ways_of_attachment_are_replaced() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let (mut client, mut db) = (Port::at(&kernel, CLIENT), Port::at(&kernel, DB));
        let send = |client: &mut Port, source: &str, data: &[u8]| {
            let mut frame = CLIENT.udp(Family::V4, DB, (40000, 80), data);
            frame.source = source.parse().expect("an address");
            client.send([0; OFFLOAD], &frame.bytes());
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Forged: only the program at the client's own interface refuses it, and the host would forward it.
            let forging = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    send(&mut client, "203.0.113.7", b"forged");
                    std::thread::yield_now();
                }
                client
            });
            for attach in ways().into_iter().chain(ways()) {
                kernel.restart(attach);
                kernel.restart(attach);
            }
            done.store(true, Ordering::Relaxed);
            let mut client = forging.join().expect("the frames can be sent");
            send(&mut client, "10.65.0.2", b"the end");
        });
        let before = db.received_before(b"the end");
        let through = before.iter().filter(|frame| frame.ends_with(b"forged")).count();
        assert_eq!(through, 0, "forged frames got through");
        assert!(kernel.seen().drops.keys().any(|(_, reason)| *reason == DropReason::Spoofed), "none was sent");
    });
}

#[test]
fn what_others_take_from_a_hook_is_put_back_whatever_the_way_of_attachment() {
    on_a_node(|| {
        for attach in ways() {
            let mut kernel = Kernel::attached(attach);
            kernel.commit(&scenario());
            let (before, index) = (attached(&kernel), kernel.index(&interface(CLIENT)));
            assert_eq!(kernel.look(&scenario()), Vec::<String>::new(), "{attach:?}: nobody touched it");
            if attach == Attach::Tcx {
                kernel.detach_link(index, "from_workload");
            } else {
                let name = "tortie/from_workload".to_owned();
                let ours =
                    Filter { interface: index, side: Side::Ingress, priority: 1, handle: 84, name, program: None };
                assert!(Socket::open().and_then(|mut socket| socket.delete_filter(&ours)).expect("an answer"));
            }
            assert_ne!(attached(&kernel), before, "{attach:?}: the harm is seen");
            let found = kernel.look(&scenario());
            assert!(matches!(&found[..], [text] if text.contains("from_workload")), "{attach:?}: {found:?}");
            assert_eq!(attached(&kernel), before, "{attach:?}");
            assert_eq!(kernel.look(&scenario()), Vec::<String>::new(), "{attach:?}: put back once");
            return_to_nothing();
        }
    });
}

/// The next node of the same test starts without this one's interfaces.
fn return_to_nothing() {
    let mut socket = Socket::open().expect("netlink answers");
    for link in socket.links().expect("links are listed").iter().filter(|link| link.name.0 != "lo") {
        socket.delete_link(link.index).expect("a link can be deleted");
    }
}

#[test]
fn cleanup_takes_our_filters_and_a_clsact_only_if_it_is_ours_and_nobody_else_uses_it() {
    // Whether others made the uplink's clsact, and whether they have a filter on it.
    for (made, used, left) in [(false, false, 0), (false, true, 1), (true, false, 1), (true, true, 1)] {
        on_a_node(|| cleaned(made, used, left));
    }
}

fn cleaned(made: bool, used: bool, left: usize) {
    let mut kernel = Kernel::attached(Attach::Clsact);
    kernel.commit(&scenario());
    kernel.cleanup();
    assert_eq!((attached(&kernel), links_with_clsact()), (BTreeSet::new(), 0));
    let mut socket = Socket::open().expect("netlink answers");
    let others = foreign(&kernel);
    if made {
        assert!(socket.add_clsact(others.interface).expect("a clsact can be added"));
    }
    kernel.restart(Attach::Clsact);
    kernel.commit(&scenario());
    if used {
        let program = kernel.program("from_uplink_dry").fd().expect("it is loaded");
        socket.replace_filter(&others, program.as_fd()).expect("a filter can be added");
    }
    kernel.cleanup();
    let name = format!("{UPLINK} filter {OTHERS}");
    assert_eq!(attached(&kernel), used.then_some(name).into_iter().collect(), "made {made}, used {used}");
    assert_eq!(links_with_clsact(), left, "made {made}, used {used}");
}
