//! Programs over restarts: verified once, taken over by the next agent, loaded only when somebody needs them.
//! In: agents that follow each other on one node, and pins that others touched. Out: which programs run, by their numbers.
//! Invariant: a program that runs over other maps, or was told otherwise, is never taken over.
//! Never: measures how long anything takes; `cargo xtask bench` does.

use crate::{
    attaching::has_tcx,
    cast::{CLIENT, DB},
    kernel::{Kernel, UPLINK, on_a_node},
    scenario::Scenario,
};
use abi::Timeouts;
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttach, TcAttachType,
    links::{FdLink, PinnedLink},
};
use calc::{Desired, World};
use dataplane::{Attach, Dataplane};
use model::{HostEndpoint, HostInterface, IfaceName, Resource, Update};
use netlink::Socket;
use std::{collections::BTreeMap, fs};

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db")
}

/// The numbers of the programs that are loaded, by their pins.
fn numbers(kernel: &Kernel) -> BTreeMap<String, u32> {
    let is_program = |name: &&str| kernel.programs_dir().join(name).exists();
    let number = |name: &str| {
        let program = SchedClassifier::from_pin(kernel.programs_dir().join(name)).expect("a program is pinned there");
        (name.to_owned(), program.info().expect("the kernel tells of it").id())
    };
    Dataplane::programs().filter(is_program).map(number).collect()
}

fn names(kernel: &Kernel) -> Vec<String> {
    numbers(kernel).into_keys().collect()
}

/// What runs at the uplink's ingress, by links.
fn at_uplink(kernel: &Kernel) -> Vec<u32> {
    let index = kernel.index(&IfaceName(UPLINK.into())).0;
    let (_, line) = SchedClassifier::query_tcx(index, TcAttachType::Ingress).expect("the kernel tells");
    line.iter().map(|program| program.id()).collect()
}

/// The same node with a host endpoint at its uplink.
fn guarded() -> Desired {
    let mut world: World = scenario().world();
    world.apply(Update::Set(Resource::HostEndpoint(HostEndpoint {
        name: "uplink".into(),
        node: "node".into(),
        interface: Some(HostInterface::Named(IfaceName(UPLINK.into()))),
        expected_ips: Vec::new(),
        labels: model::Labels::new(),
        profiles: Vec::new(),
        ports: Vec::new(),
    })));
    world.set_host_interfaces([(IfaceName(UPLINK.into()), [].into())].into());
    calc::desired(world.in_sync().expect("the world is complete"))
}

#[test]
fn a_start_loads_what_guards_pods_and_the_uplink_and_the_rest_when_it_is_needed() {
    on_a_node(|| {
        let mut kernel = Kernel::alone(&scenario());
        assert_eq!(names(&kernel), ["expire", "from_uplink", "from_workload", "to_workload"]);
        let applied = kernel.dataplane.apply(&guarded());
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let all = ["expire", "from_host_endpoint", "from_uplink", "from_workload", "to_host_endpoint", "to_workload"];
        assert_eq!(names(&kernel), all);
        kernel.dataplane.load("to_host_endpoint_dry").expect("the kernel takes a twin");
        assert!(numbers(&kernel).contains_key("to_host_endpoint_dry"));
    });
}

#[test]
fn the_next_agent_takes_the_programs_over_whatever_way_they_are_attached() {
    on_a_node(|| {
        let mut kernel = Kernel::alone(&scenario());
        kernel.dataplane.apply(&guarded());
        kernel.dataplane.load("from_workload_dry").expect("the kernel takes a twin");
        let loaded = numbers(&kernel);
        for attach in [Attach::Auto, Attach::Clsact, Attach::Auto] {
            kernel.restart(attach);
            assert_eq!(numbers(&kernel), loaded, "{attach:?}");
            let applied = kernel.dataplane.apply(&guarded());
            assert!(applied.failed.is_empty(), "{:?}", applied.failed);
            assert_eq!(numbers(&kernel), loaded, "{attach:?}");
            if attach == Attach::Auto && has_tcx() {
                let line = [loaded["from_host_endpoint"], loaded["from_uplink"]];
                assert_eq!(at_uplink(&kernel), line, "what is attached is what is pinned");
            }
        }
    });
}

#[test]
fn programs_that_are_told_otherwise_take_the_place_of_the_former_and_those_go() {
    on_a_node(|| {
        let mut kernel = Kernel::alone(&scenario());
        let (folder, former) = (kernel.programs_dir(), numbers(&kernel));
        let mut timeouts = Timeouts::DEFAULT;
        timeouts.0[0] += 1;
        kernel.restart_told(timeouts);
        kernel.commit(&scenario());
        // The only folder, which it asks for.
        assert_ne!(kernel.programs_dir(), folder);
        let present = numbers(&kernel);
        assert!(present.values().all(|number| former.values().all(|gone| gone != number)), "{former:?}, {present:?}");
        if has_tcx() {
            assert_eq!(at_uplink(&kernel), [present["from_uplink"]]);
        }
    });
}

#[test]
fn programs_over_other_maps_are_loaded_anew() {
    on_a_node(|| {
        let mut kernel = Kernel::alone(&scenario());
        let (folder, former) = (kernel.programs_dir(), numbers(&kernel));
        drop(kernel.grow());
        kernel.commit(&scenario());
        assert_eq!(kernel.programs_dir(), folder);
        let present = numbers(&kernel);
        for (name, number) in &present {
            assert_ne!(former.get(name), Some(number), "{name} runs over the smaller maps");
        }
        kernel.restart(Attach::Auto);
        assert_eq!(numbers(&kernel), present, "and taken over from then on");
    });
}

#[test]
fn a_pin_that_is_gone_or_another_programs_is_made_anew() {
    on_a_node(|| {
        let mut kernel = Kernel::alone(&scenario());
        let former = numbers(&kernel);
        let pin = |name: &str| kernel.programs_dir().join(name);
        fs::remove_file(pin("from_workload")).expect("a pin can be removed");
        fs::rename(pin("to_workload"), pin("from_uplink")).expect("a pin can be moved");
        kernel.restart(Attach::Auto);
        let present = numbers(&kernel);
        let kept: Vec<_> = present.iter().filter(|(_, number)| former.values().any(|known| known == *number)).collect();
        assert_eq!(kept, [(&"expire".to_owned(), &former["expire"])]);
        assert_eq!(present.len(), former.len());
        // While an agent runs, it puts them back itself.
        kernel.commit(&scenario());
        let folder = kernel.programs_dir();
        fs::remove_dir_all(&folder).expect("pins can be removed");
        let found = kernel.look(&scenario());
        assert!(found.iter().any(|found| found.contains("from_workload")), "{found:?}");
        assert_eq!(numbers(&kernel), present);
    });
}

#[test]
fn a_gate_that_cannot_be_loaded_leaves_its_interface_as_it_was_and_everything_else_goes_on() {
    on_a_node(|| {
        let mut kernel = Kernel::alone(&scenario());
        let before = at_uplink_by_any(&kernel);
        // A folder cannot be pinned over.
        let obstacle = kernel.programs_dir().join("to_host_endpoint");
        fs::create_dir(&obstacle).expect("a folder can be made");
        let desired = guarded();
        let applied = kernel.dataplane.apply(&desired);
        let told: Vec<_> = applied.failed.iter().map(|(item, error)| format!("{item}: {error}")).collect();
        let [told] = told.as_slice() else { panic!("{told:?}") };
        for part in ["host endpoint uplink on", "guard", "cannot load the kernel programs", "to_host_endpoint"] {
            assert!(told.contains(part), "{told}");
        }
        assert_eq!(at_uplink_by_any(&kernel), before, "nothing is attached of half a gate");
        assert!(desired.endpoints.keys().all(|id| kernel.dataplane.in_force(id)), "pods go on");
        fs::remove_dir(&obstacle).expect("the folder can be removed");
        let applied = kernel.dataplane.apply(&desired);
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert_ne!(at_uplink_by_any(&kernel), before);
    });
}

/// What hangs on the uplink, both sides, whichever way.
fn at_uplink_by_any(kernel: &Kernel) -> Vec<String> {
    let index = kernel.index(&IfaceName(UPLINK.into()));
    let mut socket = Socket::open().expect("netlink answers");
    let mut found = Vec::new();
    for (side, hook) in [(netlink::Side::Ingress, TcAttachType::Ingress), (netlink::Side::Egress, TcAttachType::Egress)]
    {
        let filters = socket.filters(index, side).expect("filters are listed");
        found.extend(filters.into_iter().map(|filter| filter.name));
        let links = SchedClassifier::query_tcx(index.0, hook).map(|(_, line)| line).unwrap_or_default();
        found.extend(links.iter().map(|link| link.name_as_str().unwrap_or_default().to_owned()));
    }
    found
}

/// The kernel takes a program once at a hook; the next agent brings the same one.
#[test]
fn own_2_a_link_that_a_killed_agent_had_made_but_not_put_in_its_place_is_put_there() {
    on_a_node(|| {
        if !has_tcx() {
            return;
        }
        let mut kernel = Kernel::attached(Attach::Tcx);
        kernel.commit(&scenario());
        kernel.dataplane.load("from_uplink_dry").expect("the kernel takes a twin");
        let loaded = numbers(&kernel);
        let index = kernel.index(&IfaceName(UPLINK.into())).0;
        let pin = kernel.programs_dir().join("../../links").join(format!("{index}-from_uplink"));
        let passing = pin.with_file_name(format!("{index}-from_uplink-new"));
        for with_an_older in [false, true] {
            fs::rename(&pin, &passing).expect("a pin can be moved");
            if with_an_older {
                let mut twin =
                    SchedClassifier::from_pin(kernel.programs_dir().join("from_uplink_dry")).expect("a twin");
                let place = TcAttach::Tcx { attach_type: TcAttachType::Ingress, order: LinkOrder::first() };
                let id = twin.attach(index, place).expect("a twin can be attached");
                let link = FdLink::try_from(twin.take_link(id).expect("its link")).expect("a link by descriptor");
                drop(link.pin(&pin).expect("it can be pinned"));
            }
            kernel.restart(Attach::Tcx);
            assert_eq!(at_uplink(&kernel), [loaded["from_uplink"]], "{with_an_older}");
            assert!(!passing.exists() && PinnedLink::from_pin(&pin).is_ok(), "{with_an_older}");
        }
    });
}
