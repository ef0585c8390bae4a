//! Pools under way: split, and how nodes take blocks is changed, while pods have addresses of them.
//! In: pods, and commands of `tortie ipam`. Out: which addresses pods have and get, who reaches whom, what manifests say.
//! Invariant: no pod that runs gets another address.
//! Never: waits for a change by time; the pod that is attached is the sign.

use crate::{
    addresses::{done, ipam},
    ipam::host_local,
    story::{Story, story},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use tests::{PodSpec, Probe::Tcp, flow::Connection, wait};

#[test]
fn a_pool_is_split_under_pods_that_keep_their_addresses_and_later_ones_get_of_its_parts() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let dry = done(s, &["split", "--name", "pool-v4", "4"])?;
        ensure!(
            dry.contains("IPPool split-pool-v4-3 with 10.65.192.0/18") && dry.contains("Nothing was done"),
            "{dry}"
        );
        for (arguments, said) in [
            (["--name", "pool-v4", "3"], "no power of two"),
            (["--name", "pool-v4", "2048"], "smaller than its blocks"),
            (["--cidr", "10.99.0.0/16", "2"], "no IPPool has the network 10.99.0.0/16"),
        ] {
            let (is_done, text) = ipam(s, &[&["split", "--yes"], &arguments[..]].concat())?;
            ensure!(!is_done && text.contains(said), "{text}");
        }
        let pools = |s: &_| -> Result<Vec<String>> {
            let shown: Value = serde_json::from_str(&done(s, &["show", "--output", "json"])?)?;
            let rows = shown.as_array().into_iter().flatten();
            Ok(rows.map(|row| row["cidr"].as_str().unwrap_or_default().to_owned()).collect())
        };
        ensure!(pools(s)? == ["10.65.0.0/16", "fd00:65::/64"], "{:?}", pools(s)?);
        let split = done(s, &["split", "--cidr", "10.65.0.0/16", "4", "--yes"])?;
        ensure!(split.contains("IP Pool pool-v4 was successfully split into 4 smaller pools."), "{split}");
        let expected = ["fd00:65::/64", "10.65.0.0/18", "10.65.64.0/18", "10.65.128.0/18", "10.65.192.0/18"];
        ensure!(pools(s)? == expected, "{:?}", pools(s)?);
        s.add(&PodSpec::new("x/late"))?;
        ensure!(s.pod("x/late")?.addresses().len() == 2);
        s.expect(Tcp(80), "x/a x/b x/late\n x/a - . .\n x/b . - .\n x/late . . -")?;
        let checked = done(s, &["check"])?;
        ensure!(checked.contains("of 5 IP pools") && checked.contains("found 0 problems"), "{checked}");
        Ok(())
    })
}

#[test]
fn how_nodes_take_blocks_is_changed_by_a_command_and_shown_and_agents_keep_to_it() -> Result<()> {
    story(&["x/a"], |s| {
        let dry = done(s, &["configure", "--strictaffinity=true", "--max-blocks-per-host=1"])?;
        ensure!(dry.contains("StrictAffinity: false -> true") && dry.contains("Nothing was done"), "{dry}");
        let (is_done, text) = ipam(s, &["configure", "--yes"])?;
        ensure!(!is_done && text.contains("--strictaffinity"), "{text}");
        let (is_done, text) = ipam(s, &["configure", "--max-blocks-per-host=1", "--yes"])?;
        ensure!(!is_done && text.contains("maxBlocksPerHost needs strictAffinity"), "{text}");
        done(s, &["configure", "--strictaffinity=true", "--max-blocks-per-host=1", "--yes"])?;
        let shown = done(s, &["show", "--show-configuration"])?;
        ensure!(shown.contains("maxBlocksPerHost"), "{shown}");
        let text = fs::read_to_string(s.cluster.datastore().join("ipamconfiguration-default.yaml"))?;
        ensure!(text.contains("maxBlocksPerHost: 1"), "{text}");
        let other =
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: other }\nspec: { cidr: 10.66.0.0/16 }\n";
        s.cluster.manifest("other", other)?;
        let mut number = 0;
        wait::wait_until("the agent keeps to one block", wait::PATIENCE, || {
            number += 1;
            let id = format!("x/more{number}");
            match s.add(&PodSpec::new(&id).annotation("cni.projectcalico.org/ipv4pools", r#"["other"]"#)) {
                // It has not heard of the pod, or of the configuration.
                Ok(()) => s.pods.remove(&id).context("a pod")?.delete().map(|()| false),
                Err(error) => Ok(format!("{error:#}").contains("it has 1 blocks, and may have 1 (maxBlocksPerHost)")),
            }
        })
    })
}

fn node_of(s: &Story, networks: &[&str]) -> Result<()> {
    let name = s.node.name();
    let own: Vec<_> = s.node.addresses().iter().map(|own| json!({ "type": "InternalIP", "address": own })).collect();
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "spec": { "podCIDRs": networks }, "status": { "addresses": own },
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
    });
    s.cluster.manifest(&format!("node-{name}"), &node.to_string())
}

#[test]
fn a_host_local_pod_keeps_address_and_connections_on_the_way_to_blocks_and_nobody_gets_what_it_has() -> Result<()> {
    story(&["x/a"], |s| {
        let old = PodSpec { conf: host_local(s, json!({})), ..PodSpec::new("x/old") };
        s.add(&old)?;
        let addresses = s.pod("x/old")?.addresses().to_vec();
        let peer = PodSpec { conf: host_local(s, json!({})), ..PodSpec::new("x/peer") };
        s.add(&peer)?;
        let mut flow = Connection::open(s.pod("x/peer")?.namespace(), addresses[0], 80)?;
        // The pods of pool-v4 are of no podCIDR.
        node_of(s, &["10.88.0.0/24", "fd00:88::/64"])?;
        let (is_done, refused) = ipam(s, &["migrate", "pod-cidrs", "--yes"])?;
        ensure!(!is_done && refused.contains("pod x/a has 10.65."), "{refused}");
        ensure!(done(s, &["check"])?.contains("of 2 IP pools"), "nothing is written");
        node_of(s, &["10.88.0.0/24", "fd00:88::/64", "10.65.0.0/16", "fd00:65::/64"])?;
        let (is_done, refused) = ipam(s, &["migrate", "pod-cidrs", "--yes"])?;
        ensure!(!is_done && refused.contains("IPPool pool-v4 gives addresses already"), "{refused}");
        ensure!(done(s, &["check"])?.contains("of 2 IP pools"), "nothing is written");
        // A cluster without pools, but for one that is another's.
        s.pods.remove("x/a").context("x/a")?.delete()?;
        s.cluster.remove("pod-x-a")?;
        node_of(s, &["10.88.0.0/24", "fd00:88::/64"])?;
        let dry = done(s, &["migrate", "pod-cidrs"])?;
        ensure!(
            dry.contains("2 pools, 2 blocks and 4 addresses to write") && dry.contains("Nothing was done"),
            "{dry}"
        );
        let begun = done(s, &["migrate", "pod-cidrs", "--yes"])?;
        ensure!(begun.contains("set up all nodes"), "{begun}");
        let asks = |id: &str| {
            let (v4, v6) = (r#"["podcidr-10-88-0-0-24"]"#, r#"["podcidr-fd00-88---64"]"#);
            PodSpec::new(id)
                .annotation("cni.projectcalico.org/ipv4pools", v4)
                .annotation("cni.projectcalico.org/ipv6pools", v6)
        };
        // Host-local goes on until its nodes are set up otherwise.
        s.add(&PodSpec { conf: host_local(s, json!({})), ..PodSpec::new("x/late") })?;
        let finished = done(s, &["migrate", "pod-cidrs", "--finish", "--settle", "0", "--yes"])?;
        ensure!(finished.contains("Pools are enabled"), "{finished}");
        let mut last = String::new();
        wait::wait_until("pods get addresses of blocks", wait::PATIENCE, || {
            let added = s.add(&asks("x/n0"));
            last = added.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
            Ok(added.is_ok())
        })
        .context(last)?;
        (1..6).try_for_each(|number| s.add(&asks(&format!("x/n{number}"))))?;
        let mut all: Vec<_> = s.pods.values().flat_map(|pod| pod.addresses().to_vec()).collect();
        all.sort();
        let count = all.len();
        all.dedup();
        ensure!(all.len() == count && count == 18, "{all:?}");
        ensure!(all.iter().all(|address| address.to_string().starts_with("10.88.0.") || address.is_ipv6()), "{all:?}");
        ensure!(s.pod("x/old")?.addresses() == addresses && flow.answers()?, "its connection lives on");
        let checked = done(s, &["check", "--show-problem-ips"])?;
        ensure!(checked.contains("found 0 problems"), "{checked}");
        s.expect(Tcp(80), "x/n0 x/old x/late\n x/n0 - . .\n x/old . - .\n x/late . . -")?;
        // The way back names who has an address that host-local does not know of.
        let (is_done, refused) = ipam(s, &["migrate", "pod-cidrs", "--back", "--yes"])?;
        ensure!(!is_done && refused.contains("is given out to pod x/n0"), "{refused}");
        for number in 0..6 {
            s.pods.remove(&format!("x/n{number}")).context("a pod")?.delete()?;
        }
        // Since there are pools this agent tells them of what host-local gives, too.
        s.pods.remove("x/late").context("a pod")?.delete()?;
        let back = done(s, &["migrate", "pod-cidrs", "--back", "--yes"])?;
        ensure!(back.contains("2 pools are gone"), "{back}");
        ensure!(flow.answers()?, "its connection lives on");
        let checked = done(s, &["check"])?;
        ensure!(checked.contains("record 0 allocations, of 2 IP pools"), "{checked}");
        Ok(())
    })
}

#[test]
fn pods_come_from_one_pool_to_another_and_the_old_one_goes_once_nobody_has_an_address_of_it() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let pools = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: new }\nspec: { cidr: 10.67.0.0/16 }\n---\n\
            apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: inner }\nspec: { cidr: 10.65.128.0/17, disabled: true }\n";
        s.cluster.manifest("new", pools)?;
        let way = ["migrate", "pool", "--from", "pool-v4", "--to", "new"];
        let with = |more: &[&'static str]| [&way[..], more].concat();
        for (to, said) in [("none", "there is no IPPool none"), ("pool-v6", "of two families"), ("inner", "overlap")] {
            let (is_done, text) = ipam(s, &["migrate", "pool", "--from", "pool-v4", "--to", to, "--yes"])?;
            ensure!(!is_done && text.contains(said), "{text}");
        }
        let dry = done(s, &way)?;
        ensure!(
            dry.contains("2 addresses of IPPool pool-v4 are given out") && dry.contains("Nothing was done"),
            "{dry}"
        );
        ensure!(done(s, &with(&["--yes"]))?.contains("IPPool pool-v4 is disabled."));
        let addresses = s.pod("x/a")?.addresses().to_vec();
        let late = |s: &mut Story, net: &str| -> Result<()> {
            let mut number = 0;
            wait::wait_until(&format!("a pod gets an address of {net}"), wait::PATIENCE, || {
                number += 1;
                let id = format!("x/late{number}");
                s.add(&PodSpec::new(&id))?;
                let is_it = s.pod(&id)?.address().to_string().starts_with(net);
                s.pods.remove(&id).context("a pod")?.delete()?;
                Ok(is_it)
            })
        };
        late(s, "10.67.")?;
        let (is_done, refused) = ipam(s, &with(&["--finish", "--yes"]))?;
        ensure!(!is_done && refused.contains("IPPool pool-v4 stays") && refused.contains("of pod x/a"), "{refused}");
        // The way back.
        ensure!(done(s, &with(&["--back", "--yes"]))?.contains("IPPool pool-v4 is enabled."));
        ensure!(done(s, &with(&["--yes"]))?.contains("IPPool pool-v4 is disabled."));
        late(s, "10.67.")?;
        ensure!(s.pod("x/a")?.addresses() == addresses, "nobody is numbered anew");
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        for id in ["x/a", "x/b"] {
            s.pods.remove(id).context("a pod")?.delete()?;
            s.add(&PodSpec::new(id))?;
        }
        ensure!(done(s, &way)?.contains("0 addresses of IPPool pool-v4"));
        ensure!(done(s, &with(&["--finish", "--yes"]))?.contains("IPPool pool-v4 is gone."));
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        ensure!(!done(s, &["show"])?.contains("10.65.0.0/16"));
        Ok(())
    })
}
