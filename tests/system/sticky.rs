//! Addresses that outlive their pods: a pod that is made anew, on its node or on another, has the address it had.
//! In: pods that ask for it, deleted and attached again on two nodes. Out: their addresses, who reaches them, what `tortie ipam` says.
//! Invariant: an address is one sandbox's, or held for one name.
//! Never: waits for a time; what is waited for is what the blocks say.

use crate::{
    addresses::done_at,
    nodes::{Two, two},
};
use anyhow::{Context as _, Result, ensure};
use model::Cidr;
use serde_json::json;
use std::{net::IpAddr, thread};
use tests::{
    NetNs, PodSpec,
    Probe::Tcp,
    runtime::Call,
    wait::{PATIENCE, wait_until},
};

fn sticky(id: &str) -> PodSpec {
    PodSpec::new(id).annotation("tortie.dev/sticky-address", "true")
}

fn said(t: &Two, arguments: &[&str]) -> Result<String> {
    done_at(&t.cluster, &t.nodes[0], arguments)
}

fn shown(t: &Two, address: IpAddr) -> Result<String> {
    said(t, &["show", "--ip", &address.to_string()])
}

/// On this node; that the other's route leads there is its agent's business.
fn add(t: &mut Two, spec: &PodSpec, number: u8) -> Result<Vec<IpAddr>> {
    let pod = t.nodes[usize::from(number) - 1].pod(&t.cluster, spec)?;
    let addresses = pod.addresses().to_vec();
    t.pods.insert(spec.id(), pod);
    Ok(addresses)
}

/// What a runtime of this node says of a sandbox that it makes of a pod; with its network namespace.
fn sandbox(t: &Two, id: &str, number: u8, round: usize) -> Result<(NetNs, Call, Option<String>)> {
    let node = &t.nodes[usize::from(number) - 1];
    let (namespace, name) = id.split_once('/').context("an id")?;
    let netns = NetNs::create(t.cluster.stem(), &format!("s{number}{round}"))?;
    let call = Call {
        container: format!("{:064x}", round * 10 + usize::from(number)),
        netns: Some(netns.path()),
        interface: "eth0".to_owned(),
        args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"),
        conf: json!({}),
    };
    let answer = node.runtime().call("ADD", &call)?;
    let address = answer.success().ok().and_then(|result| Some(result["ips"][0]["address"].as_str()?.to_owned()));
    Ok((netns, call, address))
}

fn delete(t: &mut Two, id: &str) -> Result<()> {
    t.pods.remove(id).context("a pod")?.delete()
}

#[test]
fn a_pod_that_asks_for_it_has_its_address_again_on_another_node_and_nobody_else_meanwhile() -> Result<()> {
    two(|t| {
        let had = add(t, &sticky("x/web-0"), 1)?;
        let (_netns, call, other) = sandbox(t, "x/web-0", 2, 0)?;
        ensure!(other.is_none(), "its first sandbox lives, and {other:?} is given");
        t.nodes[1].runtime().call("DEL", &call)?.success()?;
        t.expect(Tcp(80), "x/web-0\n x/a .\n x/b .")?;
        delete(t, "x/web-0")?;
        for address in &had {
            ensure!(shown(t, *address)?.contains("is held for x/web-0 until"), "{}", shown(t, *address)?);
        }
        let checked = said(t, &["check", "--show-problem-ips"])?;
        ensure!(checked.contains("2 of them are held") && checked.contains("found 0 problems"), "{checked}");
        let other = add(t, &PodSpec::new("x/other"), 1)?;
        ensure!(other.iter().all(|address| !had.contains(address)), "{other:?}");
        let again = add(t, &sticky("x/web-0"), 2)?;
        ensure!(again == had, "{again:?} and not {had:?}");
        t.expect(Tcp(80), "x/web-0\n x/a .\n x/b .")?;
        // Its agent dies, and the pod goes while nobody is there: the runtime says DEL again.
        t.nodes[1].agent.kill()?;
        t.nodes[1].start()?;
        delete(t, "x/web-0")?;
        ensure!(add(t, &sticky("x/web-0"), 1)? == had, "and back");
        t.expect(Tcp(80), "x/web-0\n x/a .\n x/b .")
    })
}

#[test]
fn of_two_nodes_that_attach_a_pod_at_once_one_has_its_address_and_the_other_nothing() -> Result<()> {
    two(|t| {
        let had = add(t, &sticky("x/web-0"), 1)?;
        delete(t, "x/web-0")?;
        for round in 1..6 {
            let both: [Result<_>; 2] = thread::scope(|scope| {
                let other = scope.spawn(|| sandbox(t, "x/web-0", 2, round));
                let one = sandbox(t, "x/web-0", 1, round);
                [one, other.join().expect("no panic")]
            });
            let both = both.into_iter().collect::<Result<Vec<_>>>()?;
            let given: Vec<_> = both.iter().filter_map(|(_, _, address)| address.clone()).collect();
            ensure!(given == [Cidr::host(had[0]).to_string()], "round {round}: {given:?} and not {had:?}");
            for (number, (_, call, _)) in both.iter().enumerate() {
                t.nodes[number].runtime().call("DEL", call)?.success()?;
            }
        }
        Ok(())
    })
}

#[test]
fn what_is_held_is_free_once_its_time_is_over_or_its_pool_gives_nothing_more() -> Result<()> {
    two(|t| {
        let soon = "apiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\nmetadata: { name: default }\n\
            spec: { controllers: { node: { leakGracePeriod: 3s } } }\n";
        t.cluster.manifest("controllers", soon)?;
        let short = add(t, &sticky("x/short-0").annotation("tortie.dev/sticky-for", "1s"), 1)?;
        let long = add(t, &sticky("x/long-0"), 1)?;
        for id in ["x/short-0", "x/long-0"] {
            delete(t, id)?;
            t.cluster.remove(&format!("pod-{}", id.replace('/', "-")))?;
        }
        wait_until("a hold is over", PATIENCE * 4, || Ok(shown(t, short[0])?.contains("is not assigned")))?;
        ensure!(shown(t, long[0])?.contains("is held for x/long-0"), "{}", shown(t, long[0])?);
        let disabled =
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: spare }\nspec: { cidr: 10.66.0.0/16 }\n";
        t.cluster.manifest("spare", disabled)?;
        said(t, &["migrate", "pool", "--from", "pool-v4", "--to", "spare", "--yes"])?;
        wait_until("a hold ends with its pool", PATIENCE * 4, || Ok(shown(t, long[0])?.contains("is not assigned")))
    })
}
