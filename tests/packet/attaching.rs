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

/// Whether this kernel has TCX, as its version says and as it answers itself.
pub(crate) fn has_tcx() -> bool {
    let said = rustix::system::uname();
    let release = said.release().to_str().expect("a version is text");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let is_new = (numbers.next(), numbers.next()) >= (Some(6), Some(6));
    let answers = SchedClassifier::query_tcx(1u32, TcAttachType::Ingress).is_ok();
    assert_eq!(answers, is_new, "Linux {release}");
    answers
}

/// Ways of attachment that this kernel knows.
fn ways() -> Vec<Attach> {
    if has_tcx() { vec![Attach::Clsact, Attach::Tcx] } else { vec![Attach::Clsact] }
}

/// What hangs on the node's interfaces: interface, side and name.
fn attached(kernel: &Kernel) -> BTreeSet<String> {
    attached_to(kernel, &[interface(CLIENT), interface(DB), IfaceName(UPLINK.into())])
}

fn attached_to(kernel: &Kernel, names: &[IfaceName]) -> BTreeSet<String> {
    let mut socket = Socket::open().expect("netlink answers");
    let mut found = BTreeSet::new();
    for name in names {
        let index = kernel.index(name);
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
        let mut clsacts = 0;
        for attach in ways().into_iter().chain([Attach::Clsact]).chain(ways()) {
            // Twice: the second adopts what the first of the same way left.
            for _ in 0..2 {
                kernel.restart(attach);
                kernel.commit(&scenario());
                let by = if attach == Attach::Tcx { "link " } else { "filter tortie/" };
                assert_eq!(attached(&kernel), wanted(by), "{attach:?}");
                // Once made it stays: taking it away would lose packets.
                clsacts = if attach == Attach::Tcx { clsacts } else { 3 };
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
            // Also where an agent fails to start: the scope waits for the sender.
            let end = AtEnd(&done);
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
                // From filters to links, one by one.
                kernel.restart(Attach::Auto);
                while kernel.upgrade() {}
            }
            drop(end);
            let mut client = forging.join().expect("the frames can be sent");
            send(&mut client, "10.65.0.2", b"the end");
        });
        let before = db.received_before(b"the end");
        let through = before.iter().filter(|frame| frame.ends_with(b"forged")).count();
        assert_eq!(through, 0, "forged frames got through");
        assert!(kernel.seen().drops.keys().any(|(_, reason)| *reason == DropReason::Spoofed), "none was sent");
    });
}

/// What hangs on the node's interfaces when so many of the pods' four hooks have been moved to links.
fn between(moved: usize) -> BTreeSet<String> {
    let is_uplink = |text: &String| text.starts_with(UPLINK);
    let uplink = wanted("link ").into_iter().filter(is_uplink);
    // As the agent moves them: interface by interface, what comes from the pod first.
    let pods = |by| wanted(by).into_iter().filter(|text| !is_uplink(text));
    let index = |text: &String| if text.starts_with(&interface(CLIENT).0) { 0 } else { 1 };
    let in_order = |by| {
        let mut all: Vec<_> = pods(by).collect();
        all.sort_by_key(index);
        all
    };
    let (links, filters) = (in_order("link "), in_order("filter tortie/"));
    uplink.chain(links[..moved].to_vec()).chain(filters[moved..].to_vec()).collect()
}

#[test]
fn own_2_a_pod_is_guarded_by_filters_at_once_and_by_links_once_nobody_waits_also_over_restarts() {
    // Without TCX filters are where it ends.
    let (last, by, clsacts) = if has_tcx() { (4, "link ", 2) } else { (0, "filter tortie/", 3) };
    let after = |moved| if has_tcx() { between(moved) } else { wanted(by) };
    // An agent is followed by another after every move, as if it had been killed there.
    for restarted in [false, true] {
        on_a_node(|| {
            let mut kernel = Kernel::attached(Attach::Auto);
            kernel.commit(&scenario());
            for moved in 0..=last {
                if restarted {
                    kernel.restart(Attach::Auto);
                    kernel.commit(&scenario());
                }
                assert_eq!(attached(&kernel), after(moved), "{moved} moved, restarted: {restarted}");
                assert_eq!(kernel.look(&scenario()), Vec::<String>::new(), "{moved} moved: it is as it shall be");
                assert_eq!(kernel.upgrade(), moved < last, "{moved} moved");
            }
            assert_eq!(attached(&kernel), wanted(by));
            assert_eq!(links_with_clsact(), clsacts, "a clsact stays where it was made");
        });
    }
}

#[test]
fn what_others_take_from_a_hook_is_put_back_before_and_after_it_is_moved() {
    on_a_node(|| {
        let mut kernel = Kernel::attached(Attach::Auto);
        kernel.commit(&scenario());
        let index = kernel.index(&interface(CLIENT));
        let name = "tortie/from_workload".to_owned();
        let ours = Filter { interface: index, side: Side::Ingress, priority: 1, handle: 84, name, program: None };
        let before = attached(&kernel);
        assert!(Socket::open().and_then(|mut socket| socket.delete_filter(&ours)).expect("an answer"));
        let found = kernel.look(&scenario());
        assert!(matches!(&found[..], [text] if text.contains("from_workload")), "{found:?}");
        assert_eq!(attached(&kernel), before);
        while kernel.upgrade() {}
        if has_tcx() {
            kernel.detach_link(index, "from_workload");
            let found = kernel.look(&scenario());
            assert!(matches!(&found[..], [text] if text.contains("from_workload")), "{found:?}");
            while kernel.upgrade() {}
            assert_eq!(attached(&kernel), wanted("link "), "first a filter, then a link again");
        } else {
            assert_eq!(attached(&kernel), before, "there is nothing to move to");
        }
        assert_eq!(kernel.look(&scenario()), Vec::<String>::new(), "put back once");
    });
}

#[test]
fn a_pod_that_goes_while_it_is_moved_stops_nobody() {
    for moved in 0..4 {
        on_a_node(|| {
            let mut kernel = Kernel::attached(Attach::Auto);
            kernel.commit(&scenario());
            for _ in 0..moved {
                assert_eq!(kernel.upgrade(), has_tcx(), "where there is something to move to");
            }
            let index = kernel.index(&interface(CLIENT));
            assert!(Socket::open().and_then(|mut socket| socket.delete_link(index)).expect("an answer"));
            // What is on the other pod is moved on; the one that is gone stops nobody.
            for _ in 0..8 {
                kernel.upgrade();
            }
            assert!(!kernel.upgrade(), "{moved} moved: it comes to an end");
            let left = attached_to(&kernel, &[interface(DB), IfaceName(UPLINK.into())]);
            let by_link = |text: &String| text.contains(" link ") || !has_tcx();
            assert!(left.len() == 3 && left.iter().all(by_link), "{moved} moved: {left:?}");
        });
    }
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
        }
    });
}

/// Says that it is over when it goes, also in a panic.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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
        let program = kernel.program("from_uplink_dry");
        let program = program.fd().expect("it is loaded").as_fd();
        socket.replace_filter(&others, program).expect("a filter can be added");
    }
    kernel.cleanup();
    let name = format!("{UPLINK} filter {OTHERS}");
    assert_eq!(attached(&kernel), used.then_some(name).into_iter().collect(), "made {made}, used {used}");
    assert_eq!(links_with_clsact(), left, "made {made}, used {used}");
}

#[test]
fn pins_that_are_removed_while_programs_move_to_links_hold_no_link_up() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let before = attached(&kernel);
        let links = kernel.pins_dir().with_file_name("links");
        std::fs::remove_dir_all(&links).expect("pins can be removed");
        while kernel.upgrade() {}
        kernel.look(&scenario());
        if has_tcx() {
            let pinned = std::fs::read_dir(&links).expect("the folder is there again").count();
            assert_eq!(pinned, 5, "two pods' and the uplink's: {:?}", attached(&kernel));
        } else {
            assert_eq!(attached(&kernel), before, "filters need no pins");
        }
    });
}
