//! What processes of this node answer in a service's name: when its program is there, and who knows of it.
//! In: services, behind which the node itself stands or does not. Out: the order of calls, what is attached, what is named.
//! Invariant: as of `tests`.
//! Never: as of `tests`.

use super::*;

/// The addresses behind a service: for those inside and for those outside.
pub type Behind<'a> = (&'a [&'a str], &'a [&'a str]);

/// Services at 10.96.0.1, 10.96.0.2, ..
pub fn with_services(mut desired: Desired, services: &[Behind<'_>]) -> Desired {
    let own = AddressSpec { class: Arc::new(Class::default()), owner: Owner::Host };
    desired.addresses.insert("192.0.2.1".parse().expect("an address"), own);
    for (number, (inside, outside)) in (1..).zip(services) {
        let those = |addresses: &[&str]| {
            let those = addresses.iter().map(|text| Backend { address: text.parse().expect("an address"), port: 80 });
            let those: Arc<[Backend]> = those.collect();
            Arc::new(Backends { chosen: Arc::clone(&those), listed: those, elsewhere: false })
        };
        let service = ServiceId { namespace: "x".into(), name: format!("s{number}") };
        let balance = Balance {
            of: ServicePortId { service, port: "web".into() },
            kind: Kind::NodePort,
            inside: those(inside),
            outside: (!outside.is_empty()).then(|| those(outside)),
            keeps_source: false,
            has_outside: !outside.is_empty(),
            affinity_s: None,
            sources: None,
            by_host: false,
        };
        let frontend = Frontend { address: address_of(number), protocol: Protocol::TCP, port: 443 };
        desired.services.insert(frontend, Arc::new(balance));
    }
    desired
}

fn address_of(service: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, service])
}

pub const OWN: &[&str] = &["192.0.2.1"];
const POD: &[&str] = &["10.65.0.11"];

#[test]
fn answers_have_a_program_before_the_first_question_and_until_nobody_who_might_answer_is_listed() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let is_there = |kernel: &Rc<RefCell<Kernel>>| kernel.borrow().attached.contains(&(UPLINK, Hook::ToUplink));
    for services in [&[(POD, POD), (OWN, &[])][..], &[(POD, &["192.0.2.7"])]] {
        assert!(apply(&mut node, &with_services(pods(&[11]), services)).failed.is_empty());
        assert!(!is_there(&kernel), "nobody outside asks a process of the node's");
    }
    kernel.borrow_mut().done.clear();
    let asked = with_services(pods(&[11]), &[(POD, POD), (OWN, OWN)]);
    assert!(apply(&mut node, &asked).failed.is_empty());
    assert!(position(&kernel, &format!("attach to_uplink {UPLINK}")) < position(&kernel, "Generation"));
    kernel.borrow_mut().attached.remove(&(UPLINK, Hook::ToUplink));
    assert_eq!(look(&mut node, &asked).len(), 1, "somebody detached it");
    // Listed for those inside alone: what others opened may still be answered.
    apply(&mut node, &with_services(pods(&[11]), &[(POD, POD), (OWN, POD)]));
    assert!(is_there(&kernel));
    // The next agent knows of none yet, and then of one.
    let mut next = super::node(&kernel);
    next.settle().expect("a sweep");
    assert!(is_there(&kernel), "nobody said yet what is wanted");
    apply(&mut next, &with_services(pods(&[11]), &[(POD, POD), (OWN, POD)]));
    assert!(is_there(&kernel));
    kernel.borrow_mut().done.clear();
    apply(&mut next, &with_services(pods(&[11]), &[(POD, POD), (POD, POD)]));
    assert!(position(&kernel, "Generation") < position(&kernel, "detach to_uplink"));
    assert!(!is_there(&kernel) && kernel.borrow().attached.contains(&(UPLINK, Hook::FromUplink)));
}

#[test]
fn answers_without_a_program_are_named_and_everything_else_goes_on() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let asked = with_services(pods(&[11]), &[(OWN, OWN)]);
    kernel.borrow_mut().refuses = Some("attach to_uplink");
    let applied = apply(&mut node, &asked);
    let failed: Vec<_> = applied.failed.iter().map(|(item, error)| (item.as_str(), error.step.as_str())).collect();
    assert_eq!(failed, [("eth0", "have answers leave by eth0 in their service's name")]);
    assert!(applied.limited && kernel.borrow().is_in_force(11));
    kernel.borrow_mut().refuses = None;
    assert!(apply(&mut node, &asked).failed.is_empty());
}

#[test]
fn whoever_follows_what_is_desired_knows_of_answers_what_one_knows_who_sees_it_all() {
    let steps: [(&[Behind<'_>], bool, bool); 6] = [
        (&[(POD, POD), (POD, &[])], false, false),
        (&[(POD, POD), (POD, OWN)], true, true),
        (&[(POD, POD), (OWN, POD)], false, true),
        (&[(POD, POD)], false, false),
        (&[(POD, OWN), (OWN, OWN)], true, true),
        (&[(POD, OWN), (POD, POD)], true, true),
    ];
    let (mut following, mut own) = (super::super::answers::Answers::default(), super::super::Own::default());
    let mut before = Desired::default();
    for (number, (services, chosen, listed)) in (1..).zip(steps) {
        let desired = with_services(Desired::default(), services);
        let services = before.services.keys().chain(desired.services.keys());
        let services = services.filter(|key| before.services.get(key) != desired.services.get(key)).copied().collect();
        let addresses = if number == 1 { desired.addresses.keys().copied().collect() } else { BTreeSet::new() };
        let touched = Touched { services, addresses, ..Touched::default() };
        let latest = Latest::numbered(&desired, number, &touched);
        own.hear(latest);
        following.hear(latest, &own.addresses);
        assert_eq!((!following.chosen.is_empty(), !following.listed.is_empty()), (chosen, listed), "step {number}");
        before = desired;
    }
    // The host loses the address.
    before.addresses.clear();
    let touched =
        Touched { addresses: BTreeSet::from(["192.0.2.1".parse().expect("an address")]), ..Touched::default() };
    let latest = Latest::numbered(&before, 7, &touched);
    own.hear(latest);
    following.hear(latest, &own.addresses);
    assert!(following.chosen.is_empty() && following.listed.is_empty());
}
