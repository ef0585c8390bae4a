//! The typical packets of `ebpf/budget.toml` through the live programs: what becomes of each, and how long it takes.
//! In: what came before, and one packet. Out: lines `nanoseconds PATH N`, which `cargo xtask budget --write` writes down.
//! Invariant: the paths are those that are counted there, under the same names.
//! Never: asserts a time.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OUTSIDE},
    frame::{ACK, SYN, arp},
    kernel::{Kernel, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    services::{TARGET, VIP, serve_in},
    table::{Action, By, Step, arrives, host_sends, leaves, node_sends, sends},
};
use model::{Direction, Protocol};
use std::time::Duration;

const SQL: u16 = 5432;
const DNS: u16 = 53;
/// More packets than a flow needs to be noted.
const MANY: usize = 40;
/// Runs of a path; the median is told.
const ROUNDS: u16 = 60;

/// What came before, the packet, and what becomes of it. Both are made with another source port each round, so that
/// every round has a flow of its own.
struct Path {
    name: &'static str,
    family: Family,
    before: fn(u16) -> Vec<Step>,
    packet: fn(u16) -> Step,
    wanted: Action,
}

fn scenario() -> Scenario {
    let rules = policy("db-in", Some("db"), &[Direction::Ingress])
        .ingress(allow().port(Protocol::TCP, SQL))
        .ingress(allow().port(Protocol::UDP, DNS));
    let out = policy("client-out", Some("client"), &[Direction::Egress]).egress(allow().pods("db"));
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").policy(rules).policy(out)
}

fn asks(port: u16, flags: u8) -> Step {
    sends(CLIENT, move |f| CLIENT.tcp(f, DB, (port, SQL), flags).bytes())
}

fn shakes_hands(port: u16) -> Vec<Step> {
    let answers = sends(DB, move |f| DB.tcp(f, CLIENT, (SQL, port), SYN | ACK).bytes());
    vec![asks(port, SYN), answers, asks(port, ACK)]
}

fn asks_by_udp(port: u16) -> Step {
    sends(CLIENT, move |f| CLIENT.udp(f, DB, (port, DNS), b"?").bytes())
}

fn is_answered_by_udp(port: u16) -> Vec<Step> {
    vec![asks_by_udp(port), sends(DB, move |f| DB.udp(f, CLIENT, (DNS, port), b"!").bytes()), asks_by_udp(port)]
}

fn comes_in(port: u16, flags: u8) -> Step {
    arrives(move |f| OUTSIDE.tcp(f, DB, (port, SQL), flags).with_destination_mac(NODE.mac.0).bytes())
}

fn host_asks(port: u16, flags: u8) -> Step {
    host_sends(DB, move |f| NODE.tcp(f, DB, (port, SQL), flags).with_destination_mac(DB.mac.0).bytes())
}

fn often(mut before: Vec<Step>, again: impl Fn() -> Step) -> Vec<Step> {
    before.extend((0..MANY).map(|_| again()));
    before
}

fn paths() -> Vec<Path> {
    let path = |name, before, packet, wanted| Path { name, family: Family::V4, before, packet, wanted };
    let established =
        |name, family| Path { family, ..path(name, shakes_hands, |port| asks(port, ACK), Action::Redirect) };
    vec![
        path("arp-request", |_| Vec::new(), |_| sends(CLIENT, |_| who_is_the_gateway()), Action::Redirect),
        established("established-tcp-v4", Family::V4),
        established("established-tcp-v6", Family::V6),
        path("established-udp-v4", is_answered_by_udp, asks_by_udp, Action::Redirect),
        path(
            "recent-tcp-v4",
            |port| often(shakes_hands(port), || asks(port, ACK)),
            |port| asks(port, ACK),
            Action::Redirect,
        ),
        path(
            "recent-udp-v4",
            |port| often(is_answered_by_udp(port), || asks_by_udp(port)),
            asks_by_udp,
            Action::Redirect,
        ),
        path("new-tcp-v4", |_| Vec::new(), |port| asks(port, SYN), Action::Redirect),
        path(
            "refused-tcp-v4",
            |_| Vec::new(),
            |port| sends(CLIENT, move |f| CLIENT.tcp(f, DB, (port, 99), SYN).bytes()),
            Action::Drop,
        ),
        path(
            "from-uplink-established-tcp-v4",
            |port| {
                let answers = sends(DB, move |f| DB.tcp(f, OUTSIDE, (SQL, port), SYN | ACK).bytes());
                vec![comes_in(port, SYN), answers, comes_in(port, ACK)]
            },
            |port| comes_in(port, ACK),
            Action::Redirect,
        ),
        path(
            "to-workload-established-tcp-v4",
            |port| {
                let answers = sends(DB, move |f| DB.tcp(f, NODE, (SQL, port), SYN | ACK).bytes());
                vec![host_asks(port, SYN), answers, host_asks(port, ACK)]
            },
            |port| host_asks(port, ACK),
            Action::PassOn,
        ),
        path(
            "to-uplink-no-answer-tcp-v4",
            |_| Vec::new(),
            |port| leaves(By::Host, move |f| NODE.tcp(f, OUTSIDE, (SQL, port), ACK).bytes()),
            Action::PassOn,
        ),
    ]
}

fn asks_service(port: u16, flags: u8) -> Step {
    sends(CLIENT, move |f| CLIENT.tcp(f, VIP, (port, 443), flags).bytes())
}

fn answers_for_service(port: u16, flags: u8) -> Step {
    sends(DB, move |f| DB.tcp(f, CLIENT, (TARGET, port), flags).bytes())
}

/// On a node with a service, and the db behind it.
fn paths_of_services() -> Vec<Path> {
    let open = |port| vec![asks_service(port, SYN), answers_for_service(port, SYN | ACK), asks_service(port, ACK)];
    let path = |name, packet| Path { name, family: Family::V4, before: open, packet, wanted: Action::Redirect };
    vec![
        path("service-tcp-v4", |port| asks_service(port, ACK)),
        path("service-answer-tcp-v4", |port| answers_for_service(port, ACK)),
        Path {
            before: |_| Vec::new(),
            wanted: Action::PassOn,
            ..path("from-node-no-service-tcp-v4", |port| node_asks(OUTSIDE, port, ACK))
        },
    ]
}

/// The node itself, by its uplink, where its packets are led to services.
fn node_asks(to: Actor, port: u16, flags: u8) -> Step {
    node_sends(move |f| NODE.tcp(f, to, (port, 443), flags).bytes())
}

fn who_is_the_gateway() -> Vec<u8> {
    let std::net::IpAddr::V4(own) = CLIENT.address(Family::V4) else { panic!("an IPv4 address") };
    arp(CLIENT, 1, own.octets(), [169, 254, 1, 1])
}

#[test]
fn every_path_of_the_budget_goes_where_it_should() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let tell = |kernel: &mut Kernel, path: Path| {
            let mut times: Vec<Duration> = (0..ROUNDS).map(|round| time(kernel, &path, 20_000 + round)).collect();
            times.sort();
            println!("nanoseconds {} {}", path.name, times[times.len() / 2].as_nanos());
        };
        paths().into_iter().for_each(|path| tell(&mut kernel, path));
        let served =
            policy("db-serves", Some("db"), &[Direction::Ingress]).ingress(allow().port(Protocol::TCP, TARGET));
        serve_in(&scenario().policy(served), &mut kernel, &[DB], &[]);
        paths_of_services().into_iter().for_each(|path| tell(&mut kernel, path));
    });
}

fn time(kernel: &mut Kernel, path: &Path, port: u16) -> Duration {
    // The endpoints' quota of flows is small.
    kernel.fresh();
    for step in (path.before)(port) {
        step.take(kernel, path.family);
    }
    let (action, took) = (path.packet)(port).time(kernel, path.family);
    assert_eq!(action, path.wanted, "{}", path.name);
    took
}
