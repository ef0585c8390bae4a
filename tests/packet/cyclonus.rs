//! Cyclonus' cases in the kernel: a sample of them, every pod asking every other, held against what Kubernetes says.
//! In: every eleventh case, its manifests read as an agent reads them. Out: agreement, flow by flow.
//! Invariant: what is expected owes nothing to evaluator, compiler or programs.
//! Never: all of the cases; the crate `policy` runs those over rows.

use crate::{
    differential::{interface, live, mac, place_of, world},
    kernel::{Kernel, on_a_node},
};
use model::{Policy, Resource};
use policy::cyclonus::{Cluster, PORTS, cases};
use std::{path::Path, sync::Arc};

/// One case in so many.
const ONE_IN: usize = 11;
/// The pods that the cases begin with.
const PODS: usize = 9;

#[test]
fn cyc_1_cyc_2_cyc_3_programs_say_what_kubernetes_says_of_every_flow_of_a_sample() {
    on_a_node(|| {
        let mut kernel = Kernel::bare();
        (0..PODS).for_each(|number| kernel.wire(&interface(number), &format!("pod{number}"), mac(number)));
        let (mut judged, mut refused) = (0, 0);
        for number in (0..cases(true).len()).step_by(ONE_IN) {
            let v4 = number % 2 == 0;
            let case = &cases(v4)[number];
            let mut cluster = Cluster::default();
            for changes in &case.steps {
                changes.iter().for_each(|change| cluster.apply(change));
                let view = cluster.view(policies(&cluster));
                if view.endpoints.len() > PODS {
                    break;
                }
                kernel.put_in_force(&world(&view));
                for flow in cluster.flows(v4, &PORTS) {
                    kernel.fresh();
                    let place = place_of(&view, &flow).expect("pods send it");
                    let lets = cluster.lets(&flow);
                    let told = || format!("{:?} {:?}: {flow:?}\n{:#?}", case.kind, case.tags, cluster.manifests());
                    assert_eq!(live(&mut kernel, &view, &flow, place), lets, "{}", told());
                    (judged, refused) = (judged + 1, refused + u32::from(!lets));
                }
            }
        }
        println!("{judged} flows, {refused} refused: programs and Kubernetes agree");
        assert!(refused > judged / 10 && judged > 10_000, "{refused} of {judged} refused");
    });
}

fn policies(cluster: &Cluster) -> Vec<Policy> {
    let read = |text: &String| datastore::snapshot::file(Path::new("case.yaml"), text).expect("the case can be read");
    let policy = |resource| match resource {
        Resource::Policy(policy) => Arc::unwrap_or_clone(policy),
        other => panic!("{other:?}"),
    };
    cluster.manifests().iter().flat_map(read).map(policy).collect()
}
