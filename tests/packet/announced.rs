//! Announced addresses: ARP and neighbour discovery at the uplink, answered by the program while the announcement lasts.
//! In: questions of a host outside. Out: the reply's every field, or the packet left to the stack as it was.
//! Invariant: what is leased ends by the clock of the kernel, with no agent to end it; a pod's address with the pod.
//! Never: drops or counts: what is not answered is none of our business.

use crate::{
    cast::{CLIENT, Family, NODE, OUTSIDE},
    frame::{arp, fold, solicitation, sum_of},
    kernel::{Kernel, UPLINK, on_a_node},
    scenario::Scenario,
    table::{Fate, Row, arrives, row, run_on},
};
use dataplane::{Announced, announced::Lasts};
use model::{IfaceName, Mac};
use netlink::Socket;
use rustix::time::{ClockId, clock_gettime};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const VIP4: [u8; 4] = [192, 0, 2, 80];
const VIP6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80];
const OUTSIDE4: [u8; 4] = [192, 0, 2, 9];
const OUTSIDE6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const NOBODY6: [u8; 16] = [0; 16];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client")
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.try_into().expect("since the start"), now.tv_nsec.try_into().expect("below a second"))
}

/// A node that announces both addresses until then.
fn announcing(kernel: &Kernel, until: Duration) -> Announced {
    let pins = kernel.pins_dir();
    let mut announced = Announced::open(pins.parent().expect("a bpffs")).expect("the maps are pinned");
    let link = Socket::open().expect("netlink answers").link(&IfaceName(UPLINK.into())).expect("it is listed");
    let addresses = [IpAddr::from(VIP4), IpAddr::from(VIP6)].map(|address| (address, Lasts::Leased)).into();
    announced.hold(&addresses).expect("there is room");
    announced.last_until(until, link.expect("an uplink").index, NODE.mac).expect("it can be said");
    announced
}

fn asks(sender: [u8; 4], target: [u8; 4], operation: u16) -> impl Fn(Family) -> Vec<u8> {
    move |_| arp(OUTSIDE, operation, sender, target)
}

fn solicits(source: [u8; 16], target: [u8; 16]) -> impl Fn(Family) -> Vec<u8> {
    move |_| solicitation(OUTSIDE, source, target, source != NOBODY6).bytes()
}

/// As of a neighbour that was known: to the uplink's own MAC, and to the address itself.
fn verifies(target: [u8; 16]) -> impl Fn(Family) -> Vec<u8> {
    move |_| {
        let mut frame = solicitation(OUTSIDE, OUTSIDE6, target, true).with_destination_mac(NODE.mac.0);
        frame.destination = target.into();
        frame.bytes()
    }
}

fn changed(make: impl Fn(Family) -> Vec<u8>, at: usize) -> impl Fn(Family) -> Vec<u8> {
    move |family| {
        let mut bytes = make(family);
        bytes[at] ^= 0x10;
        bytes
    }
}

fn rows() -> Vec<Row> {
    vec![
        row("who asks", arrives(asks(OUTSIDE4, VIP4, 1)), Fate::Answered)
            .check(|_, reply| is_reply(reply, VIP4, OUTSIDE4)),
        row("who tries it for himself", arrives(asks([0; 4], VIP4, 1)), Fate::Answered)
            .check(|_, reply| is_reply(reply, VIP4, [0; 4])),
        row("another address", arrives(asks(OUTSIDE4, [192, 0, 2, 81], 1)), Fate::Host),
        row("a pod's address", arrives(asks(OUTSIDE4, [10, 65, 0, 2], 1)), Fate::Host),
        row("the next owner announces it", arrives(asks(VIP4, VIP4, 1)), Fate::Host),
        row("a reply", arrives(asks(OUTSIDE4, VIP4, 2)), Fate::Host),
    ]
    .into_iter()
    .map(|row| row.only(V4))
    .chain(
        vec![
            row("who solicits", arrives(solicits(OUTSIDE6, VIP6)), Fate::Answered)
                .check(|_, reply| is_advertisement(reply, VIP6, (&OUTSIDE.mac.0, OUTSIDE6), 0x60)),
            row("who verifies", arrives(verifies(VIP6)), Fate::Answered)
                .check(|_, reply| is_advertisement(reply, VIP6, (&OUTSIDE.mac.0, OUTSIDE6), 0x60)),
            row("who tries it for himself", arrives(solicits(NOBODY6, VIP6)), Fate::Answered)
                .check(|_, reply| is_advertisement(reply, VIP6, (&[0x33, 0x33, 0, 0, 0, 1], ALL_NODES), 0x20)),
            row("another address", arrives(solicits(OUTSIDE6, OUTSIDE6)), Fate::Host),
            row("a wrong checksum", arrives(changed(solicits(OUTSIDE6, VIP6), 57)), Fate::Host),
            row("one that crossed a router", arrives(changed(solicits(OUTSIDE6, VIP6), 21)), Fate::Host),
            row("an advertisement", arrives(changed(solicits(OUTSIDE6, VIP6), 54)), Fate::Host),
        ]
        .into_iter()
        .map(|row| row.only(V6)),
    )
    .collect()
}

#[test]
fn who_asks_for_an_announced_address_is_answered_with_the_uplinks_mac() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let _announced = announcing(&kernel, now() + Duration::from_secs(3600));
        run_on(&mut kernel, &scenario(), rows());
    });
}

#[test]
fn nothing_is_answered_once_the_announcement_has_run_out_or_the_next_agent_has_begun() {
    let unanswered = || {
        vec![
            row("who asks", arrives(asks(OUTSIDE4, VIP4, 1)), Fate::Host).only(V4),
            row("who solicits", arrives(solicits(OUTSIDE6, VIP6)), Fate::Host).only(V6),
        ]
    };
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        run_on(&mut kernel, &scenario(), unanswered());
        let mut announced = announcing(&kernel, now());
        run_on(&mut kernel, &scenario(), unanswered());
        drop(announced);
        announced = announcing(&kernel, now() + Duration::from_secs(3600));
        run_on(&mut kernel, &scenario(), rows());
        announced.hold(&[].into()).expect("they can be taken out");
        run_on(&mut kernel, &scenario(), unanswered());
        drop(announcing(&kernel, now() + Duration::from_secs(3600)));
        // As an agent does that starts: by its pins.
        let pins = kernel.pins_dir();
        Announced::open(pins.parent().expect("a bpffs")).expect("the maps are pinned");
        run_on(&mut kernel, &scenario(), unanswered());
    });
}

/// The pod's own addresses.
const POD4: [u8; 4] = [10, 65, 0, 2];
const POD6: [u8; 16] = [0xfd, 0, 0, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

#[test]
fn pkt_9_who_asks_for_a_pods_address_is_answered_while_the_pod_is_here_and_whatever_becomes_of_the_agent() {
    let answered = || {
        vec![
            row("who asks", arrives(asks(OUTSIDE4, POD4, 1)), Fate::Answered)
                .only(V4)
                .check(|_, reply| is_reply(reply, POD4, OUTSIDE4)),
            row("who tries it for himself", arrives(asks([0; 4], POD4, 1)), Fate::Answered)
                .only(V4)
                .check(|_, reply| is_reply(reply, POD4, [0; 4])),
            row("who solicits", arrives(solicits(OUTSIDE6, POD6)), Fate::Answered)
                .only(V6)
                .check(|_, reply| is_advertisement(reply, POD6, (&OUTSIDE.mac.0, OUTSIDE6), 0x60)),
            row("who tries it for himself", arrives(solicits(NOBODY6, POD6)), Fate::Answered)
                .only(V6)
                .check(|_, reply| is_advertisement(reply, POD6, (&[0x33, 0x33, 0, 0, 0, 1], ALL_NODES), 0x20)),
        ]
    };
    let unanswered = || {
        vec![
            row("who asks", arrives(asks(OUTSIDE4, POD4, 1)), Fate::Host).only(V4),
            row("who solicits", arrives(solicits(OUTSIDE6, POD6)), Fate::Host).only(V6),
        ]
    };
    let of_pod = || [IpAddr::from(POD4), IpAddr::from(POD6)].map(|address| (address, Lasts::WithPod)).into();
    let leased = || {
        vec![
            row("who asks for what was leased", arrives(asks(OUTSIDE4, VIP4, 1)), Fate::Host).only(V4),
            row("who solicits it", arrives(solicits(OUTSIDE6, VIP6)), Fate::Host).only(V6),
        ]
    };
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let mut announced = announcing(&kernel, now() + Duration::from_secs(3600));
        let both = announced.held().clone().into_iter().chain::<BTreeMap<_, _>>(of_pod()).collect();
        announced.hold(&both).expect("there is room");
        run_on(&mut kernel, &scenario(), answered());
        drop(announced);
        // The next agent: what was leased is over, and it knows what it answers for.
        let pins = kernel.pins_dir();
        let mut next = Announced::open(pins.parent().expect("a bpffs")).expect("the maps are pinned");
        assert_eq!(*next.held(), of_pod());
        run_on(&mut kernel, &scenario(), answered());
        run_on(&mut kernel, &scenario(), leased());
        // The pod goes before anybody takes its address out.
        kernel.commit(&Scenario::default());
        run_on(&mut kernel, &Scenario::default(), unanswered());
        kernel.commit(&scenario());
        run_on(&mut kernel, &scenario(), answered());
        next.hold(&[].into()).expect("they can be taken out");
        run_on(&mut kernel, &scenario(), unanswered());
        next.hold(&of_pod()).expect("there is room");
        next.be_silent().expect("it can be said");
        run_on(&mut kernel, &scenario(), unanswered());
    });
}

fn same(what: &str, found: &[u8], expected: &[u8]) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:02x?}, not {expected:02x?}")) }
}

fn is_reply(reply: &[u8], of: [u8; 4], asker: [u8; 4]) -> Result<(), String> {
    let (Mac(node), Mac(outside)) = (NODE.mac, OUTSIDE.mac);
    same("Ethernet", &reply[..14], &[&outside[..], &node, &[8, 6]].concat())?;
    same("operation", &reply[14..22], &[0, 1, 8, 0, 6, 4, 0, 2])?;
    same("sender", &reply[22..32], &[&node[..], &of].concat())?;
    same("target", &reply[32..42], &[&outside[..], &asker].concat())
}

fn is_advertisement(reply: &[u8], of: [u8; 16], (mac, to): (&[u8; 6], [u8; 16]), flags: u8) -> Result<(), String> {
    let Mac(node) = NODE.mac;
    same("Ethernet", &reply[..14], &[&mac[..], &node, &[0x86, 0xdd]].concat())?;
    same("length, next header, hop limit", &reply[18..22], &[0, 32, 58, 255])?;
    same("source", &reply[22..38], &of)?;
    same("destination", &reply[38..54], &to)?;
    same("type, code and flags", &[&reply[54..56], &reply[58..62]].concat(), &[136, 0, flags, 0, 0, 0])?;
    same("target and its link-layer address", &reply[62..86], &[&of[..], &[2, 1], &node].concat())?;
    same("checksum", &fold(sum_of(&reply[22..86]) + 32 + 58).to_be_bytes(), &[0, 0])
}
