//! Addresses that Debian's IPAM plugins give: wired, routed and policed like our own; never an address that somebody has.
//! In: networks with host-local, static and dhcp. Out: tables, leases, refusals.
//! Invariant: leases lie in a directory of the test's own.
//! Never: a DHCP server; `dhcp` is refused before anybody is asked.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};
use tests::{
    NetNs, Outcome, Pod, PodSpec,
    Probe::{Ping, Tcp},
    runtime::{Call, PLUGINS},
    wait::{PATIENCE, wait_until},
};

/// A network of one /24 and one /64, out of no pool. Debian's plugins speak CNI up to 1.0.0.
pub fn host_local(s: &Story, more: Value) -> Value {
    let mut ipam = json!({
        "type": "host-local", "dataDir": leases(s),
        "ranges": [[{ "subnet": "10.88.0.0/24" }], [{ "subnet": "fd00:88::/64" }]],
    });
    if let (Some(members), Some(more)) = (ipam.as_object_mut(), more.as_object()) {
        members.extend(more.clone());
    }
    json!({ "cniVersion": "1.0.0", "ipam": ipam })
}

fn leases(s: &Story) -> PathBuf {
    s.cluster.directory().join("leases")
}

/// Addresses that host-local gives to somebody.
fn leased(s: &Story) -> Result<Vec<String>> {
    let entries = fs::read_dir(leases(s).join("tortie")).context("reading the leases")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut leased: Vec<_> = names.filter(|name| name.starts_with("10.") || name.starts_with("fd")).collect();
    leased.sort();
    Ok(leased)
}

fn spec(id: &str, conf: Value) -> PodSpec {
    PodSpec { conf, ..PodSpec::new(id) }
}

fn static_at(address: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "ipam": { "type": "static", "addresses": [{ "address": address }] } })
}

/// An ADD that is refused, and leaves the number of endpoints as it was.
fn refused(s: &Story, name: &str, conf: Value) -> Result<(u64, String)> {
    let before = s.node.show("endpoints")?.as_array().map_or(0, Vec::len);
    let namespace = NetNs::create(s.cluster.stem(), name)?;
    let call = Call {
        container: format!("box-{name}"),
        netns: Some(namespace.path()),
        interface: "eth0".to_owned(),
        // As the kubelet has it: Debian's plugins take it for their own arguments.
        args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME={name}"),
        conf,
    };
    let refusal = s.node.runtime().call("ADD", &call)?.failure()?;
    ensure!(namespace.ip_json("link show")?.as_array().map(Vec::len) == Some(1), "an interface is left");
    ensure!(s.node.show("endpoints")?.as_array().map_or(0, Vec::len) == before, "an endpoint is left");
    Ok(refusal)
}

#[test]
fn calc_24_host_local_gives_addresses_that_are_policed_and_takes_them_back() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.add(&spec("x/h", host_local(s, json!({}))))?;
        s.add(&spec("x/i", host_local(s, json!({}))))?;
        assert_eq!(leased(s)?, ["10.88.0.2", "10.88.0.3", "fd00:88::2", "fd00:88::3"]);
        assert!(s.pod("x/h")?.address().to_string().starts_with("10.88.0."));
        s.expect(Tcp(80), "x/a x/h x/i\n x/a - . .\n x/h . - .\n x/i . . -")?;
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: h } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: i } } }] }] }")?;
        s.expect(Tcp(80), "x/h\n x/a X\n x/b X\n x/i .")?;
        let mut gone = s.pods.remove("x/i").context("no pod x/i")?;
        gone.delete()?;
        drop(gone);
        assert_eq!(leased(s)?, ["10.88.0.2", "fd00:88::2"]);
        s.add(&spec("x/i", host_local(s, json!({}))))?;
        s.expect(Tcp(80), "x/h\n x/a X\n x/i .")
    })
}

#[test]
fn cni_54_a_lease_that_is_lost_shows_in_check() -> Result<()> {
    story(&[], |s| {
        s.add(&spec("x/h", host_local(s, json!({}))))?;
        let pod = s.pod("x/h")?;
        let mut call = pod.call().clone();
        call.conf["prevResult"] = pod.result().clone();
        s.node.runtime().call("CHECK", &call)?.success()?;
        fs::remove_file(leases(s).join("tortie").join(pod.address().to_string()))?;
        fs::remove_file(leases(s).join("tortie").join(pod.addresses()[1].to_string()))?;
        let (_, message) = s.node.runtime().call("CHECK", &call)?.failure()?;
        assert!(message.contains("host-local"), "{message}");
        Ok(())
    })
}

#[test]
fn cni_23_exhausted_ranges_are_told_in_the_plugins_words_and_leave_nothing() -> Result<()> {
    story(&["x/a"], |s| {
        let one =
            json!({ "ranges": [[{ "subnet": "10.88.0.0/24", "rangeStart": "10.88.0.7", "rangeEnd": "10.88.0.7" }]] });
        s.add(&spec("x/h", host_local(s, one.clone())))?;
        let (_, message) = refused(s, "late", host_local(s, one))?;
        assert!(message.contains("host-local") && message.contains("no IP addresses available"), "{message}");
        assert_eq!(leased(s)?, ["10.88.0.7"]);
        s.expect(Tcp(80), "x/a x/h\n x/a - .\n x/h . -")
    })
}

#[test]
fn an_address_that_a_pod_or_the_node_has_is_not_taken_from_static() -> Result<()> {
    story(&["x/a"], |s| {
        s.add(&spec("x/s", static_at("10.89.0.5/24")))?;
        let (pods, node) = (s.pod("x/a")?.address().to_string(), s.node.addresses()[0].to_string());
        for (address, holder) in [("10.89.0.5", "x/s"), (&pods, "x/a"), (&node, "this node")] {
            let (code, message) = refused(s, "second", static_at(&format!("{address}/24")))?;
            assert!(code == 11 && message.contains(holder), "{code} {message}");
        }
        s.expect(Tcp(80), "x/a x/s\n x/a - .\n x/s . -")
    })
}

#[test]
fn calc_24_all_addresses_of_static_are_policed_and_its_routes_and_dns_handed_on() -> Result<()> {
    const GIVEN: [&str; 4] = ["10.89.0.5", "10.89.0.6", "fd00:89::5", "fd00:89::6"];
    let dns = json!({ "nameservers": ["10.96.0.10"], "domain": "cluster.local", "search": ["x.svc.cluster.local"] });
    story(&["x/a", "x/b"], |s| {
        let addresses = ["10.89.0.5/24", "10.89.0.6/24", "fd00:89::5/64", "fd00:89::6/64"];
        let conf = json!({ "cniVersion": "1.0.0", "ipam": {
            "type": "static", "addresses": addresses.map(|address| json!({ "address": address })),
            "routes": [{ "dst": "10.0.0.0/8" }, { "dst": "fd00::/8", "gw": "fd00:89::1" }], "dns": dns,
        } });
        s.add(&spec("x/s", conf))?;
        let pod = s.pod("x/s")?;
        let result = pod.result();
        let has: Vec<_> = pod.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(has, GIVEN);
        assert_eq!(result["dns"], dns, "{result}");
        let routes: Vec<_> = result["routes"].as_array().into_iter().flatten().map(|route| &route["dst"]).collect();
        assert_eq!(routes, ["10.0.0.0/8", "fd00::/8"], "{result}");
        // Nothing else leads out of the pod, and what does leads to the node.
        let shown = pod.namespace().ip_json("route show")?;
        let shown: Vec<_> = shown.as_array().context("a list")?.iter().map(|route| route["dst"].clone()).collect();
        assert_eq!(shown, ["10.0.0.0/8", "169.254.1.1"]);
        let everywhere = |s: &Story, from: &str, expected: Outcome| -> Result<()> {
            for address in s.pod("x/s")?.addresses() {
                for what in [Tcp(80), Ping] {
                    let met = tests::probe::probe(s.pod(from)?.namespace(), *address, what)?;
                    ensure!(met == expected, "{from} to {address} {what}: {met}");
                }
            }
            Ok(())
        };
        everywhere(s, "x/a", Outcome::Allowed)?;
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: s } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: a } } }] }] }")?;
        s.expect(Tcp(80), "x/s\n x/a .\n x/b X")?;
        everywhere(s, "x/b", Outcome::Refused)?;
        everywhere(s, "x/a", Outcome::Allowed)?;
        // By any of its addresses it is the pod that policy knows.
        s.policy("x/q", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/s X")?;
        let mut call = s.pod("x/s")?.call().clone();
        call.conf["prevResult"] = s.pod("x/s")?.result().clone();
        s.node.runtime().call("CHECK", &call)?.success()?;
        s.pod("x/s")?.namespace().ip(&["address del 10.89.0.6/32 dev eth0"])?;
        let (code, said) = s.node.runtime().call("CHECK", &call)?.failure()?;
        ensure!(code == 100 && said.contains("10.89.0.6"), "{code} {said}");
        let (code, said) = refused(s, "twice", static_at("10.89.0.6/24"))?;
        ensure!(code == 11 && said.contains("x/s"), "each of them is the pod's: {code} {said}");
        // The agent's end alone: another learns of no address that is gone.
        let mut gone = s.pods.remove("x/s").context("no pod x/s")?;
        gone.delete()?;
        drop(gone);
        s.add(&spec("x/t", static_at("10.89.0.6/24")))?;
        s.expect(Tcp(80), "x/t\n x/b .")
    })
}

/// What STATUS says of a network. Debian's plugins do not know the question; the agent is asked first.
fn status(s: &Story, conf: &Value) -> Result<String> {
    let mut conf = conf.clone();
    conf["cniVersion"] = "1.1.0".into();
    let call = Call { container: String::new(), netns: None, interface: String::new(), args: String::new(), conf };
    Ok(s.node.runtime().call("STATUS", &call)?.failure()?.1)
}

#[test]
fn calc_24_host_local_gives_of_the_nodes_own_networks_and_gets_them_back() -> Result<()> {
    story(&["x/a"], |s| {
        let own = |subnets: Value| {
            let mut conf = host_local(s, json!({}));
            if let Some(ipam) = conf["ipam"].as_object_mut() {
                ipam.remove("ranges");
                ipam.extend(subnets.as_object().cloned().unwrap_or_default());
            }
            conf
        };
        let one = own(json!({ "subnet": "usePodCidr" }));
        let two = own(json!({ "ranges": [[{ "subnet": "usePodCidr" }], [{ "subnet": "usePodCidrIPv6" }]] }));
        ensure!(status(s, &two)?.contains("spec.podCIDRs"));
        let (code, said) = refused(s, "early", two.clone())?;
        ensure!(code == 11 && said.contains("has no IPv4 network in spec.podCIDRs"), "{code} {said}");
        let file = format!("node-{}", s.node.name());
        let mut node: Value =
            serde_json::from_str(&fs::read_to_string(s.cluster.datastore().join(format!("{file}.yaml")))?)?;
        node["spec"] = json!({ "podCIDR": "10.88.7.0/24", "podCIDRs": ["10.88.7.0/24", "fd00:88:7::/64"] });
        s.cluster.overwrite(&file, &node.to_string())?;
        wait_until("the node's own networks", PATIENCE, || Ok(!status(s, &two)?.contains("spec.podCIDRs")))?;
        s.add(&spec("x/h", two.clone()))?;
        s.add(&spec("x/i", one))?;
        assert_eq!(leased(s)?, ["10.88.7.2", "10.88.7.3", "fd00:88:7::2"]);
        s.expect(Tcp(80), "x/a x/h x/i\n x/a - . .\n x/h . - .\n x/i . . -")?;
        let mut call = s.pod("x/h")?.call().clone();
        call.conf["prevResult"] = s.pod("x/h")?.result().clone();
        s.node.runtime().call("CHECK", &call)?.success()?;
        for id in ["x/h", "x/i"] {
            let mut gone = s.pods.remove(id).context("no pod")?;
            gone.delete()?;
        }
        assert_eq!(leased(s)?, Vec::<String>::new(), "given back without the networks");
        s.add(&spec("x/h", two))?;
        s.expect(Tcp(80), "x/a x/h\n x/a - .\n x/h . -")
    })
}

#[test]
fn cni_e2_dhcp_is_refused_by_its_name() -> Result<()> {
    story(&[], |s| {
        let (code, message) = refused(s, "leased", json!({ "ipam": { "type": "dhcp" } }))?;
        assert!(code == 2 && message.contains("ipam.type") && message.contains("dhcp"), "{code} {message}");
        Ok(())
    })
}

/// The ADD of one more interface for a pod that stands.
fn second_interface(pod: &Pod, conf: Value) -> Call {
    Call { interface: "net1".to_owned(), conf, ..pod.call().clone() }
}

#[test]
fn calc_15_two_interfaces_are_policed_alike_and_serve_by_their_own_address_behind_sbr() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let pod = s.pod("x/a")?;
        let call = second_interface(pod, json!({ "cniVersion": "1.0.0" }));
        let result = s.node.runtime().call("ADD", &call)?.success()?;
        let text = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next()).unwrap_or_default();
        let second = text.parse().with_context(|| result.to_string())?;
        assert_eq!(s.node.show("endpoints")?.as_array().map(Vec::len), Some(3));
        // By itself a reply from its address would leave by the first interface, as one that is not its own.
        source_routes(s, &call, &result)?;
        let client = s.pod("x/b")?.namespace();
        for what in [Tcp(80), Ping] {
            assert_eq!(tests::probe::probe(client, second, what)?, Outcome::Allowed, "{what}");
        }
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress] }")?;
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b X -")?;
        assert_eq!(tests::probe::probe(client, second, Tcp(80))?, Outcome::Refused);
        s.drop_policy("x/p")?;
        s.node.runtime().call("DEL", &call)?.success()?;
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        assert_eq!(s.node.show("endpoints")?.as_array().map(Vec::len), Some(2));
        Ok(())
    })
}

/// Debian's `sbr`, as a runtime calls the next plugin of a chain.
fn source_routes(s: &Story, call: &Call, result: &Value) -> Result<()> {
    let conf = json!({ "cniVersion": "1.0.0", "name": "tortie", "type": "sbr", "prevResult": result });
    let sbr = s.node.runtime().other(&std::path::Path::new(PLUGINS).join("sbr"));
    let variables = [
        ("CNI_COMMAND", "ADD".to_owned()),
        ("CNI_CONTAINERID", call.container.clone()),
        ("CNI_IFNAME", call.interface.clone()),
        ("CNI_NETNS", call.netns.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
        ("CNI_PATH", PLUGINS.to_owned()),
    ];
    sbr.run(&variables, &conf.to_string())?.success().context("sbr")?;
    Ok(())
}
