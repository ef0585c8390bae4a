//! What pods ask of their addresses by annotations, on a real node: addresses, pools, families, MACs.
//! In: manifests with Calico's annotations. Out: what the pod's interface has, who reaches whom, which ADD fails and why.
//! Invariant: what a pod asks for it has, or it is not attached.
//! Never: waits for a change by time; the pod that is attached is the sign.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{
    Outcome, PodSpec,
    Probe::{Ping, Tcp},
    probe::probe,
    wait::{PATIENCE, wait_until},
};

const PREFIX: &str = "cni.projectcalico.org/";

fn asking(id: &str, key: &str, value: &str) -> PodSpec {
    PodSpec::new(id).annotation(&format!("{PREFIX}{key}"), value)
}

fn addresses(s: &Story, id: &str) -> Result<Vec<String>> {
    Ok(s.pod(id)?.addresses().iter().map(ToString::to_string).collect())
}

/// A pool `own` for who names it, and a namespace `z` that names this one.
fn own_pool(s: &Story, named: &str) -> Result<()> {
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: own }\n\
                spec: { cidr: 10.66.0.0/24, assignmentMode: Manual }\n";
    s.cluster.manifest("own", pool)?;
    let annotations = format!("{{ {PREFIX}ipv4pools: '[\"{named}\"]' }}");
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: z, annotations: {annotations} }}\n");
    s.cluster.manifest("z", &namespace)
}

fn refused(s: &mut Story, spec: &PodSpec, said: &str) -> Result<()> {
    let error = match s.add(spec) {
        Ok(()) => anyhow::bail!("{} is attached", spec.id()),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains(said), "{error}");
    Ok(())
}

#[test]
fn calc_9_a_pod_has_the_addresses_that_it_names_is_reached_there_and_nobody_gets_them_too() -> Result<()> {
    story(&["x/a"], |s| {
        s.add(&asking("x/named", "ipAddrs", r#"["10.65.77.7", "fd00:65::77:7"]"#))?;
        ensure!(addresses(s, "x/named")? == ["10.65.77.7", "fd00:65::77:7"]);
        for address in s.pod("x/named")?.addresses() {
            for what in [Tcp(80), Ping] {
                let met = probe(s.pod("x/a")?.namespace(), *address, what)?;
                ensure!(met == Outcome::Allowed, "{address} {what}: {met}");
            }
        }
        refused(s, &asking("x/late", "ipAddrs", r#"["10.65.77.7"]"#), "10.65.77.7 is taken")?;
        refused(s, &asking("x/out", "ipAddrs", r#"["192.0.2.1"]"#), "lies in no enabled IPPool")?;
        refused(s, &asking("x/bad", "ipAddrs", "10.65.77.8"), "cni.projectcalico.org/ipAddrs")?;
        s.expect(Tcp(80), "x/a x/named\n x/a - .\n x/named . -")
    })
}

#[test]
fn calc_7_a_pod_gets_of_the_pools_that_it_or_its_namespace_names() -> Result<()> {
    story(&["x/a"], |s| {
        own_pool(s, "10.66.0.0/24")?;
        s.add(&asking("x/own", "ipv4pools", r#"["own"]"#))?;
        s.add(&PodSpec::new("z/b"))?;
        s.add(&asking("z/c", "ipv4pools", r#"["pool-v4"]"#))?;
        for (id, net) in [("x/a", "10.65."), ("x/own", "10.66."), ("z/b", "10.66."), ("z/c", "10.65.")] {
            let has = addresses(s, id)?;
            ensure!(has[0].starts_with(net) && has.len() == 2, "{id}: {has:?}");
        }
        refused(s, &asking("x/none", "ipv4pools", r#"["none"]"#), "IPPool none was asked for, and there is none")?;
        s.add(&asking("x/v4", "ipFamilies", r#"["IPv4"]"#))?;
        ensure!(addresses(s, "x/v4")?.len() == 1, "one family is what it asked for");
        s.expect(Tcp(80), "x/a x/own z/b\n x/a - . .\n x/own . - .\n z/b . . -")
    })
}

#[test]
fn calc_11_a_pod_has_the_mac_that_it_names_and_speaks_by_no_other() -> Result<()> {
    const MAC: &str = "0a:58:0a:41:00:77";
    story(&["x/a"], |s| {
        s.add(&asking("x/named", "hwAddr", MAC))?;
        let namespace = s.pod("x/named")?.namespace();
        let link = namespace.ip_json("link show dev eth0")?;
        ensure!(link[0]["address"] == json!(MAC), "{link}");
        s.expect(Tcp(80), "x/a x/named\n x/a - .\n x/named . -")?;
        // The node has it as the pod's, so that it asks nobody.
        let interface = s.pod("x/named")?.host_interface().to_owned();
        let known = s.node.namespace().ip_json(&format!("neigh show dev {interface}"))?;
        let all = known.as_array().context("a list")?;
        ensure!(all.len() == 2 && all.iter().all(|entry| entry["lladdr"] == json!(MAC)), "{known}");
        // Another is not taken for its own.
        s.pod("x/named")?.namespace().ip(&["link set dev eth0 address 0a:58:0a:41:00:78"])?;
        let to = s.pod("x/a")?.address();
        let met = probe(s.pod("x/named")?.namespace(), to, Tcp(80))?;
        ensure!(met != Outcome::Allowed, "it speaks by another MAC: {met}");
        refused(s, &asking("x/bad", "hwAddr", "01:00:5e:00:00:01"), "cni.projectcalico.org/hwAddr")
    })
}

#[test]
fn ipam_3_ipam_5_a_node_has_as_many_blocks_as_it_may_and_then_says_so() -> Result<()> {
    story(&["x/a"], |s| {
        let config = "apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata: { name: default }\n\
                      spec: { strictAffinity: true, maxBlocksPerHost: 2 }\n";
        let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: small }\n\
                    spec: { cidr: 10.66.0.0/29, blockSize: 31 }\n";
        let reserved = "apiVersion: projectcalico.org/v3\nkind: IPReservation\nmetadata: { name: r }\n\
                        spec: { reservedCIDRs: [10.66.0.0/30] }\n";
        for (name, text) in [("config", config), ("small", pool), ("r", reserved)] {
            s.cluster.manifest(name, text)?;
        }
        // Its block of the first pool counts, too.
        for id in ["x/p1", "x/p2"] {
            s.add(&asking(id, "ipv4pools", r#"["small"]"#))?;
            let has = addresses(s, id)?;
            ensure!(["10.66.0.4", "10.66.0.5", "10.66.0.6", "10.66.0.7"].contains(&&*has[0]), "ipam_17: {has:?}");
        }
        refused(s, &asking("x/p3", "ipv4pools", r#"["small"]"#), "no address is left in IPPool small")?;
        s.expect(Tcp(80), "x/p1 x/p2\n x/p1 - .\n x/p2 . -")
    })
}

#[test]
fn calc_7_the_configurations_pools_and_families_count_where_nobody_else_says_any() -> Result<()> {
    story(&["x/a"], |s| {
        own_pool(s, "pool-v4")?;
        let conf = json!({ "ipam": { "type": "tortie", "ipv4_pools": ["own"], "assign_ipv4": "true", "assign_ipv6": "false" } });
        let of = |id: &str| PodSpec { conf: conf.clone(), ..PodSpec::new(id) };
        s.add(&of("x/conf"))?;
        s.add(&of("z/namespace"))?;
        s.add(&of("x/pod").annotation(&format!("{PREFIX}ipv4pools"), r#"["pool-v4"]"#))?;
        s.add(&of("x/families").annotation(&format!("{PREFIX}ipFamilies"), r#"["IPv4", "IPv6"]"#))?;
        for (id, net, count) in
            [("x/conf", "10.66.", 1), ("z/namespace", "10.65.", 1), ("x/pod", "10.65.", 1), ("x/families", "10.66.", 2)]
        {
            let has = addresses(s, id)?;
            ensure!(has[0].starts_with(net) && has.len() == count, "{id}: {has:?}");
        }
        let none = json!({ "ipam": { "type": "tortie", "ipv4_pools": ["none"] } });
        let said = "IPPool none was asked for, and there is none";
        refused(s, &PodSpec { conf: none, ..PodSpec::new("x/none") }, said)?;
        let neither = json!({ "ipam": { "type": "tortie", "assign_ipv4": "false" } });
        refused(s, &PodSpec { conf: neither, ..PodSpec::new("x/neither") }, "leave a pod no address")?;
        s.expect(Tcp(80), "x/a x/conf z/namespace\n x/a - . .\n x/conf . - .\n z/namespace . . -")
    })
}

/// How many packets of `x/a` were dropped because they were not by its own address.
fn spoofed(s: &Story) -> Result<u64> {
    let drops = s.node.show("drops")?;
    let rows = drops.as_array().context("a list")?.iter();
    let of_pod = rows.filter(|row| row["reason"] == "spoofed" && row["pod"] == "x/a");
    Ok(of_pod.filter_map(|row| row["packets"].as_u64()).sum())
}

#[test]
fn calc_10_a_pod_has_the_addresses_that_it_names_though_no_pool_has_them_and_nobody_else_speaks_by_them() -> Result<()>
{
    story(&["x/a", "x/b"], |s| {
        let conf = json!({ "feature_control": { "ip_addrs_no_ipam": true } });
        let naming = |id: &str, value: &str| PodSpec { conf: conf.clone(), ..asking(id, "ipAddrsNoIpam", value) };
        refused(s, &asking("x/off", "ipAddrsNoIpam", r#"["198.18.0.7"]"#), "is not enabled: ip_addrs_no_ipam")?;
        s.add(&naming("x/named", r#"["198.18.0.7", "2001:db8:7::7"]"#))?;
        ensure!(addresses(s, "x/named")? == ["198.18.0.7", "2001:db8:7::7"]);
        s.expect(Tcp(80), "x/a x/named\n x/a - .\n x/named . -")?;
        // Policy knows the pod by them, in both directions.
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: named } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: a } } }] }] }")?;
        s.policy("x/q", "{ podSelector: { matchLabels: { pod: b } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: named } } }] }] }")?;
        s.expect(Tcp(80), "x/named x/b\n x/a . X\n x/b X -\n x/named - .")?;
        // Who takes the address for himself is not taken for it.
        let thief = s.pod("x/a")?.namespace();
        thief.ip(&["address add 198.18.0.7/32 dev lo"])?;
        thief.ip(&["route replace default via 169.254.1.1 dev eth0 src 198.18.0.7"])?;
        let before = spoofed(s)?;
        let met = probe(thief, s.pod("x/b")?.address(), Tcp(80))?;
        ensure!(met != Outcome::Allowed, "its source is not its own: {met}");
        ensure!(spoofed(s)? > before, "and that is why: {}", s.node.show("drops")?);
        thief.ip(&["route replace default via 169.254.1.1 dev eth0"])?;
        thief.ip(&["address del 198.18.0.7/32 dev lo"])?;
        // Whatever somebody has, is not had by naming it.
        let theirs = s.pod("x/a")?.address().to_string();
        let node = s.node.addresses()[0].to_string();
        for (address, holder) in [("198.18.0.7", "pod x/named"), (&theirs, "pod x/a"), (&node, "this node")] {
            refused(s, &naming("x/second", &format!("[{address:?}]")), &format!("which {holder} has"))?;
        }
        let both = naming("x/both", r#"["198.18.0.8"]"#).annotation(&format!("{PREFIX}ipAddrs"), r#"["10.65.9.9"]"#);
        refused(s, &both, "can't have both annotations")?;
        let delegated = json!({ "cniVersion": "1.0.0", "feature_control": { "ip_addrs_no_ipam": true },
            "ipam": { "type": "static", "addresses": [{ "address": "198.18.0.9/32" }] } });
        let delegated = PodSpec { conf: delegated, ..asking("x/static", "ipAddrsNoIpam", r#"["198.18.0.9"]"#) };
        refused(s, &delegated, "another IPAM plugin's to give")?;
        // A restart keeps it, and its end frees it.
        s.node.restart()?;
        s.expect(Tcp(80), "x/named x/b\n x/a . X\n x/b X -\n x/named - .")?;
        let mut call = s.pod("x/named")?.call().clone();
        call.conf["prevResult"] = s.pod("x/named")?.result().clone();
        s.node.runtime().call("CHECK", &call)?.success()?;
        s.pods.remove("x/named").context("no pod x/named")?.delete()?;
        // What it named before counts until its new manifest is heard.
        wait_until("another has it", PATIENCE, || Ok(s.add(&naming("x/second", r#"["198.18.0.7"]"#)).is_ok()))?;
        s.expect(Tcp(80), "x/second\n x/a .")
    })
}

const LENT: [(&str, &str); 2] =
    [("198.51.100.7/32", "169.254.1.1"), ("2001:db8:51::7/128", "fe80::ecee:eeff:feee:eeee")];

/// Whether a pod reaches another from the addresses that it is lent, and from no other: of each family.
fn sends_from_lent(s: &Story, from: &str, to: &str) -> Result<Vec<Outcome>> {
    let namespace = s.pod(from)?.namespace();
    s.pod(to)?.addresses().iter().map(|address| probe(namespace, *address, Tcp(80))).collect()
}

/// A pod speaks by addresses that it gave itself.
fn lend(s: &Story, id: &str) -> Result<()> {
    let namespace = s.pod(id)?.namespace();
    for (address, gateway) in LENT {
        let (own, flags) =
            (address.split('/').next().unwrap_or_default(), if address.contains(':') { " nodad" } else { "" });
        namespace.ip(&[
            &format!("address add {address} dev lo{flags}"),
            &format!("route replace default via {gateway} dev eth0 src {own}"),
        ])?;
    }
    Ok(())
}

fn prefixes(s: &Story, id: &str) -> Result<Value> {
    let endpoints = s.node.show("endpoints")?;
    let found = endpoints.as_array().into_iter().flatten().find(|row| row["pod"] == json!(id));
    Ok(found.with_context(|| format!("no endpoint of {id}"))?["allowedSourcePrefixes"].clone())
}

#[test]
fn spf_2_a_pod_sends_from_its_prefixes_where_felix_allows_it_until_it_asks_for_them_no_more() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let value = r#"["198.51.100.0/24", "2001:db8:51::/64"]"#;
        refused(s, &asking("x/bad", "allowedSourcePrefixes", "198.51.100.0/24"), "allowedSourcePrefixes")?;
        let asks = asking("x/proxy", "allowedSourcePrefixes", value);
        s.add(&asks)?;
        for id in ["x/proxy", "x/b"] {
            lend(s, id)?;
        }
        let none = |met: &[Outcome]| met.iter().all(|met| *met != Outcome::Allowed);
        let all = |met: &[Outcome]| met.len() == 2 && met.iter().all(|met| *met == Outcome::Allowed);
        ensure!(none(&sends_from_lent(s, "x/proxy", "x/a")?), "nobody said that it may");
        let status = s.node.show("status")?;
        ensure!(
            status["problems"].to_string().contains("pod x/proxy: it sends by its own addresses alone"),
            "{status}"
        );
        let felix = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: { name: default }\n\
                     spec: { workloadSourceSpoofing: Any }\n";
        s.cluster.manifest("felix", felix)?;
        wait_until("it may", PATIENCE, || Ok(prefixes(s, "x/proxy")?.as_array().map(Vec::len) == Some(2)))?;
        let both = "it does by both families, and the answers come back";
        wait_until(both, PATIENCE, || Ok(all(&sends_from_lent(s, "x/proxy", "x/a")?)))?;
        ensure!(none(&sends_from_lent(s, "x/b", "x/a")?), "another may not");
        let output =
            s.node.tortie(&["explain", "--from", "x/proxy", "--to", "x/a", "--port", "80", "--output", "json"])?;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(said["allowedSourcePrefixes"] == json!(["198.51.100.0/24", "2001:db8:51::/64"]), "{said}");
        let policies = s.node.show("policies")?.to_string();
        ensure!(!policies.contains("rofile"), "it is no policy, nor a profile: {policies}");
        s.node.restart()?;
        ensure!(all(&sends_from_lent(s, "x/proxy", "x/a")?), "over a restart");
        s.cluster.pod_manifest(&PodSpec::new("x/proxy"), s.node.name())?;
        wait_until("it asks no more", PATIENCE, || Ok(prefixes(s, "x/proxy")?.is_null()))?;
        wait_until("what it does not ask for it has not", PATIENCE, || {
            Ok(none(&sends_from_lent(s, "x/proxy", "x/a")?))
        })?;
        s.cluster.pod_manifest(&asks, s.node.name())?;
        wait_until("it asks again", PATIENCE, || Ok(!prefixes(s, "x/proxy")?.is_null()))?;
        ensure!(all(&sends_from_lent(s, "x/proxy", "x/a")?));
        s.cluster.remove("felix")?;
        wait_until("nobody may", PATIENCE, || Ok(prefixes(s, "x/proxy")?.is_null()))?;
        ensure!(none(&sends_from_lent(s, "x/proxy", "x/a")?), "nobody says any more that it may");
        Ok(())
    })
}
