//! What the node itself opens to services: when its program is there, and what loopback is like then.
//! In: a node whose sockets are asked, or not, by one agent after another. Out: the order of calls, what is attached, settings.
//! Invariant: as of `tests`.
//! Never: as of `tests`.

use super::*;
use netlink::LOOPBACK;

const LO: u32 = LOOPBACK.0;
const SETTINGS: [(&str, &str); 4] = [
    ("ipv4/conf/lo/accept_local", "1"),
    ("ipv4/conf/lo/rp_filter", "2"),
    ("ipv4/conf/lo/forwarding", "1"),
    ("ipv6/conf/lo/forwarding", "1"),
];

fn with_loopback() -> Rc<RefCell<Kernel>> {
    let kernel = kernel();
    kernel.borrow_mut().add_link(LO, "lo");
    kernel.borrow_mut().settings.insert("ipv4/conf/lo/accept_local".into(), "0".into());
    kernel
}

fn asking(kernel: &Rc<RefCell<Kernel>>) -> Node {
    Node { asks_by_packet: true, ..node(kernel) }
}

fn there(kernel: &Rc<RefCell<Kernel>>) -> Vec<u32> {
    let attached = kernel.borrow().attached.clone();
    attached.into_iter().filter(|(_, hook)| *hook == Hook::FromNode).map(|(index, _)| index).collect()
}

#[test]
fn the_nodes_packets_have_a_program_before_there_is_a_service_and_loopback_is_made_ready_first() {
    let kernel = with_loopback();
    let mut asking = asking(&kernel);
    assert!(apply(&mut asking, &pods(&[11])).failed.is_empty());
    assert_eq!(there(&kernel), [LO, UPLINK]);
    let settings = kernel.borrow().settings.clone();
    assert!(SETTINGS.iter().all(|(path, value)| settings[*path] == **value), "{settings:?}");
    let attach = position(&kernel, &format!("attach from_node {LO}"));
    for (path, _) in SETTINGS {
        assert!(position(&kernel, &format!("set {path}")) < attach, "{path}");
    }
    assert!(attach < position(&kernel, "Generation"));
    // Others were at it.
    kernel.borrow_mut().attached.retain(|(_, hook)| *hook != Hook::FromNode);
    kernel.borrow_mut().settings.insert("ipv4/conf/lo/rp_filter".into(), "1".into());
    assert_eq!(look(&mut asking, &pods(&[11])).len(), 3);
    assert_eq!((there(&kernel), &*kernel.borrow().settings["ipv4/conf/lo/rp_filter"]), (vec![LO, UPLINK], "2"));
}

#[test]
fn a_node_whose_sockets_are_asked_has_no_such_program_and_its_loopback_stays_as_it_is() {
    let kernel = with_loopback();
    let before = kernel.borrow().settings.clone();
    assert!(apply(&mut node(&kernel), &pods(&[11])).failed.is_empty());
    assert_eq!(there(&kernel), [0; 0]);
    let settings = kernel.borrow().settings.clone();
    assert!(SETTINGS.iter().all(|(path, _)| settings[*path] == before[*path]));
}

#[test]
fn a_program_that_cannot_be_attached_is_named_and_everything_else_goes_on() {
    for refused in ["attach from_node 1", "accept_local"] {
        let kernel = with_loopback();
        let mut asking = asking(&kernel);
        kernel.borrow_mut().refuses = Some(refused);
        let applied = apply(&mut asking, &pods(&[11]));
        let failed: Vec<_> = applied.failed.iter().map(|(item, error)| (item.as_str(), error.step.as_str())).collect();
        assert_eq!(failed, [("lo", "lead what the node itself sends by lo to services")], "{refused}");
        assert!(there(&kernel).is_empty() && kernel.borrow().is_in_force(11), "what comes back would not be taken");
        kernel.borrow_mut().refuses = None;
        assert!(apply(&mut asking, &pods(&[11])).failed.is_empty());
        assert_eq!(there(&kernel), [LO, UPLINK]);
    }
}

#[test]
fn the_next_agent_keeps_it_the_first_that_asks_sockets_too_and_the_one_after_lets_go_of_it() {
    let kernel = with_loopback();
    apply(&mut asking(&kernel), &pods(&[11]));
    for (asks_by_packet, keeps_asked) in [(true, false), (false, true), (false, false)] {
        let mut next = Node { asks_by_packet, keeps_asked, ..node(&kernel) };
        next.settle().expect("a sweep");
        assert_eq!(there(&kernel), [LO, UPLINK], "nobody said yet what is wanted");
        apply(&mut next, &pods(&[11]));
        next.settle().expect("a sweep");
        assert_eq!(there(&kernel), if asks_by_packet || keeps_asked { vec![LO, UPLINK] } else { vec![] });
    }
}

#[test]
fn they_are_led_everywhere_once_the_uplink_has_the_program_too() {
    let kernel = with_loopback();
    let mut asking = asking(&kernel);
    assert!(!asking.leads_own(), "nothing is there yet");
    kernel.borrow_mut().refuses = Some("attach from_node 2");
    assert_eq!(apply(&mut asking, &pods(&[11])).failed.len(), 1);
    assert_eq!((there(&kernel), asking.leads_own()), (vec![LO], false));
    kernel.borrow_mut().refuses = None;
    assert!(apply(&mut asking, &pods(&[11])).failed.is_empty() && asking.leads_own());
    // One without an uplink sends all by loopback.
    let mut alone = Node { uplink: None, ..self::asking(&kernel) };
    assert!(apply(&mut alone, &pods(&[11])).failed.is_empty() && alone.leads_own());
}

#[test]
fn a_former_uplink_is_let_go_once_the_present_one_has_it() {
    let kernel = with_loopback();
    kernel.borrow_mut().attached.insert((OTHER, Hook::FromNode));
    let mut next = asking(&kernel);
    next.settle().expect("a sweep");
    assert_eq!(there(&kernel), [OTHER], "nobody said yet what is wanted");
    apply(&mut next, &pods(&[11]));
    next.settle().expect("a sweep");
    assert_eq!((there(&kernel), next.leads_own()), (vec![LO, UPLINK], true));
}
