//! Tunnels that pods might build into those between nodes: IPIP, and UDP to the port that is VXLAN's on this node.
//! In: frames of pods, before and after FelixConfiguration says another port. Out: what goes on, and what is dropped.
//! Invariant: from the revision on that says a port nothing that a pod sends goes there, whatever was tracked before.
//! Never: what another sends to a pod's own port of that number, or is answered there.

use crate::{
    cast::{CLIENT, DB, Family, NODE, OUTSIDE},
    kernel::{Kernel, on_a_node},
    scenario::Scenario,
    table::{Action, Hook},
};
use model::{FelixConfiguration, Resource};

const PORT: u16 = 8472;

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db")
}

fn saying(port: u16) -> Scenario {
    let name = FelixConfiguration::DEFAULT.into();
    let felix = FelixConfiguration { name, vxlan_port: Some(port), ..FelixConfiguration::default() };
    scenario().with(Resource::FelixConfiguration(felix))
}

fn asks(kernel: &mut Kernel, family: Family, ports: (u16, u16)) -> Action {
    kernel.run(Hook::Pod(CLIENT), &CLIENT.udp(family, DB, ports, b"x").bytes()).action
}

#[test]
fn pkt_56_pods_send_to_no_port_that_has_become_that_of_tunnels_not_even_by_a_flow_that_was_there() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            kernel.fresh();
            kernel.commit(&scenario());
            for _ in 0..3 {
                assert_eq!(asks(&mut kernel, family, (9, PORT)), Action::Redirect, "{family:?}");
                let answer = DB.udp(family, CLIENT, (PORT, 9), b"y");
                assert_eq!(kernel.run(Hook::Pod(DB), &answer.bytes()).action, Action::Redirect, "{family:?}");
            }
            let from_outside = OUTSIDE.udp(family, DB, (PORT, 53), b"x").with_destination_mac(NODE.mac.0);
            assert_eq!(kernel.run(Hook::Uplink, &from_outside.bytes()).action, Action::Redirect, "{family:?}");
            kernel.commit(&saying(PORT));
            let answer = DB.udp(family, CLIENT, (PORT, 9), b"y");
            assert_eq!(
                kernel.run(Hook::Pod(DB), &answer.bytes()).action,
                Action::Drop,
                "{family:?}: no answer brings it back"
            );
            assert_eq!(asks(&mut kernel, family, (9, PORT)), Action::Drop, "{family:?}: one that was there");
            assert_eq!(asks(&mut kernel, family, (10, PORT)), Action::Drop, "{family:?}: a new one");
            assert_eq!(asks(&mut kernel, family, (10, 4789)), Action::Redirect, "{family:?}: a port like any by now");
            kernel.commit(&scenario());
            assert_eq!(asks(&mut kernel, family, (11, PORT)), Action::Redirect, "{family:?}");
            assert_eq!(asks(&mut kernel, family, (11, 4789)), Action::Drop, "{family:?}");
        }
    });
}
