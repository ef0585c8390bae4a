//! The node's own sockets as a specification: where each call leads, and in whose name its backend is heard.
//! In: the service of `services`, calls of sockets, backends that go. Out: addresses.
//! Invariant: every row says what a program on the node would see.
//! Never: looks inside a stage.

use abi::endpoint::{NODE_BESIDE, NODE_TRANSLATES, SLOT_HOST};
use abi::service::{BACKEND_LISTED, BALANCER_BOUNDS_AT, BALANCER_SILENT};
use abi::socket::SIDE_BACKEND;
use abi::{Address, Backend, Member, ServiceKey, Word};

use crate::conntrack::Socket;
use crate::fake::{Node, v4};
use crate::parse::protocol::{TCP, UDP};
use crate::sockets::{Asked, Sent, connects, hears, sends};

use crate::services::*;

const ICMP: u8 = 1;

fn at(last: u8, port: u16) -> Socket {
    (v4(last), port.to_be())
}

fn shop() -> Socket {
    at(VIP, PORT)
}

fn by(cookie: u64, protocol: u8, to: Socket) -> Asked {
    Asked { cookie, protocol, to, is_connected: false }
}

fn to(last: u8) -> Sent {
    Sent::To(at(last, TARGET))
}

#[test]
fn what_no_service_has_is_left_as_it_is() {
    let node = served_by_one();
    let rows = [(TCP, at(VIP, 444)), (UDP, at(98, PORT)), (ICMP, shop())];
    for (protocol, address) in rows {
        assert_eq!(connects(&node, &by(1, protocol, address)), Sent::AsAsked, "{protocol}");
        assert_eq!(sends(&node, &by(1, protocol, address)), Sent::AsAsked, "{protocol}");
    }
    assert!(node.sockets.borrow().is_empty());
    let bare = Node::new();
    assert_eq!(connects(&bare, &by(1, TCP, shop())), Sent::AsAsked, "a node without services");
}

#[test]
fn a_connection_goes_to_a_backend_which_is_known_by_the_services_address_to_this_socket_alone() {
    let node = served_by_one();
    for protocol in [TCP, UDP] {
        assert_eq!(connects(&node, &by(1, protocol, shop())), to(3));
        assert_eq!(hears(&node, 1, at(3, TARGET)), Some(shop()));
    }
    assert!(node.sockets.borrow().keys().all(|key| key.side == SIDE_BACKEND), "no datagram was sent");
    assert_eq!(
        (hears(&node, 2, at(3, TARGET)), hears(&node, 1, at(4, TARGET)), hears(&node, 1, at(3, 81))),
        (None, None, None)
    );
}

#[test]
fn connections_are_spread_and_the_datagrams_of_a_socket_stay_together() {
    let node = served();
    let mut met: std::vec::Vec<_> = (1..21).map(|cookie| connects(&node, &by(cookie, TCP, shop()))).collect();
    met.sort_by_key(|met| *met == to(4));
    met.dedup();
    assert_eq!(met, [to(3), to(4)]);
    let mut firsts = [false; 2];
    for cookie in 100..120 {
        let first = sends(&node, &by(cookie, UDP, shop()));
        assert!((0..9).all(|_| sends(&node, &by(cookie, UDP, shop())) == first), "socket {cookie}");
        firsts[usize::from(first == to(4))] = true;
    }
    assert_eq!(firsts, [true; 2]);
    assert_eq!(node.counted.borrow().opened.values().sum::<u32>(), 40, "one for each socket");
}

#[test]
fn datagrams_go_elsewhere_once_their_backend_is_gone_and_stay_where_it_only_is_not_chosen() {
    let mut node = served_by_one();
    let send = |node: &Node| sends(node, &by(1, UDP, shop()));
    assert_eq!(send(&node), to(3));
    node.members[0].backend = 2;
    node.backends[1].standing = Word::settled(BACKEND_LISTED);
    assert_eq!((send(&node), connects(&node, &by(2, UDP, shop()))), (to(3), to(4)));
    assert_eq!((connects(&node, &by(1, UDP, shop())), send(&node)), (to(4), to(3)), "what connects is chosen for anew");
    node.backends[1].standing = Word::settled(0);
    assert_eq!((send(&node), hears(&node, 1, at(4, TARGET))), (to(4), Some(shop())));
    // The slot means another now, and it is the former that was chosen.
    node.generation.set(9);
    node.backends[2] = Backend { born: 9, ..backend(4, STANDS) };
    node.members[0].backend = 1;
    node.backends[1] = Backend { born: 9, ..backend(3, STANDS) };
    assert_eq!(send(&node), to(3));
}

#[test]
fn an_answer_has_the_name_under_which_the_socket_asked_last() {
    let mut node = served_by_one();
    node.services.insert(ServiceKey { address: v4(98), ..key(PORT, UDP) }, 1);
    let other = at(98, PORT);
    for (asked, name) in [(shop(), shop()), (other, other), (shop(), shop())] {
        assert_eq!(sends(&node, &by(1, UDP, asked)), to(3));
        assert_eq!(hears(&node, 1, at(3, TARGET)), Some(name));
    }
    let itself = by(1, UDP, at(3, TARGET));
    assert_eq!(sends(&node, &Asked { is_connected: true, ..itself }), Sent::AsAsked);
    assert_eq!(hears(&node, 1, at(3, TARGET)), Some(shop()), "that is where the service's datagrams go");
    assert_eq!(sends(&node, &itself), Sent::AsAsked);
    assert_eq!(hears(&node, 1, at(3, TARGET)), None, "it was asked by its own");
}

#[test]
fn what_was_forgotten_is_learned_again() {
    let node = served_by_one();
    assert_eq!(sends(&node, &by(1, UDP, shop())), to(3));
    node.sockets.borrow_mut().retain(|key, _| key.side == abi::socket::SIDE_FRONTEND);
    assert_eq!((sends(&node, &by(1, UDP, shop())), hears(&node, 1, at(3, TARGET))), (to(3), Some(shop())));
}

#[test]
fn where_nobody_is_the_call_is_refused_or_unheard() {
    let mut node = served_by_one();
    node.balancers[1].len = 0;
    for protocol in [TCP, UDP] {
        assert_eq!(connects(&node, &by(1, protocol, shop())), Sent::Refused);
        assert_eq!(sends(&node, &by(1, protocol, shop())), Sent::Refused);
    }
    node.balancers[1].flags = BALANCER_SILENT;
    assert_eq!(connects(&node, &by(1, TCP, shop())), Sent::Unheard);
    assert_eq!(node.counted.borrow().refused, [(1, 5)].into());
    node.balancers[1].len = 1;
    node.members.clear();
    assert_eq!(connects(&node, &by(1, TCP, shop())), Sent::Refused, "what cannot be made out leads nowhere");
}

#[test]
fn the_node_is_one_client_in_each_family_and_keeps_to_its_backend() {
    let mut node = served();
    node.balancers[1].affinity_s = 100;
    let first = connects(&node, &by(1, TCP, shop()));
    assert!((2..20).all(|cookie| connects(&node, &by(cookie, TCP, shop())) == first));
    assert!((2..20).all(|cookie| sends(&node, &by(cookie, UDP, shop())) == first));
    // The same service port in the other family, which has backends of its own.
    let v6 = |last: u8| Address::from_bytes([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    node.services.insert(ServiceKey { address: v6(99), ..key(PORT, TCP) }, 2);
    node.frontends.push(abi::Frontend { inside: Word::settled(2), ..abi::Frontend::default() });
    node.members.push(abi::Member { backend: 3, pad: 0 });
    node.balancers.push(abi::Balancer { offset: 2, len: 1, ..node.balancers[1] });
    node.backends.push(Backend { address: v6(3), ..backend(3, STANDS) });
    let sixth = connects(&node, &by(30, TCP, (v6(99), PORT.to_be())));
    assert_eq!(sixth, Sent::To((v6(3), TARGET.to_be())));
    node.now_s.set(node.now_s.get() + 101);
    let later: std::vec::Vec<_> = (40..44).map(|cookie| connects(&node, &by(cookie, TCP, shop()))).collect();
    assert!(later.iter().all(|met| *met == later[0]), "and then to the next");
}

#[test]
fn sockets_ask_another_proxy_where_one_translates_and_those_that_have_a_backend_keep_it() {
    let mut node = served_by_one();
    assert_eq!((connects(&node, &by(1, TCP, shop())), sends(&node, &by(2, UDP, shop()))), (to(3), to(3)));
    node.endpoints[SLOT_HOST as usize].ingress = Word::settled(NODE_TRANSLATES | NODE_BESIDE);
    assert_eq!(
        (connects(&node, &by(3, TCP, shop())), sends(&node, &by(4, UDP, shop()))),
        (Sent::AsAsked, Sent::AsAsked)
    );
    assert_eq!(hears(&node, 1, at(3, TARGET)), Some(shop()));
    assert_eq!((sends(&node, &by(2, UDP, shop())), hears(&node, 2, at(3, TARGET))), (to(3), Some(shop())));
    node.balancers[1].len = 0;
    assert_eq!(connects(&node, &by(5, TCP, shop())), Sent::AsAsked, "that one says that nobody is there");
    node.backends[1].standing = Word::settled(0);
    assert_eq!(sends(&node, &by(2, UDP, shop())), Sent::AsAsked, "its backend is gone");
    node.balancers[1].len = 1;
    (node.backends[1].standing, node.endpoints[SLOT_HOST as usize].ingress) =
        (Word::settled(STANDS), Word::settled(NODE_BESIDE));
    assert_eq!((connects(&node, &by(3, TCP, shop())), sends(&node, &by(4, UDP, shop()))), (to(3), to(3)));
}

#[test]
fn the_nodes_sockets_are_asked_for_by_the_nodes_own_address_where_there_are_source_ranges() {
    let words = |last: u8| u128::from_be_bytes(v4(last).to_bytes());
    let mut node = served_by_one();
    for (from, to, wanted) in [(1, 2, self::to(3)), (2, 3, Sent::Unheard), (0, 1, Sent::Unheard)] {
        let bounds = [words(from), words(to)].map(|bound| [96, 64, 32, 0].map(|shift| (bound >> shift) as u32));
        node.members.truncate(1);
        node.members.extend(bounds.concat().into_iter().map(|backend| Member { backend, pad: 0 }));
        node.balancers[1].flags = 2 << BALANCER_BOUNDS_AT;
        let cookie = u64::from(from) + 1;
        for protocol in [TCP, UDP] {
            assert_eq!(connects(&node, &by(cookie, protocol, shop())), wanted, "from {from}");
        }
        assert_eq!(sends(&node, &by(cookie + 10, UDP, shop())), wanted, "from {from}");
    }
    assert_eq!(node.counted.borrow().refused[&1], 6);
    node.source = None;
    assert_eq!(connects(&node, &by(9, TCP, shop())), Sent::Unheard, "a node that has none is nobody");
}
