//! The CNI binary as a runtime meets it: names, MACs, addresses and routes as Calico's, and every command.
//! In: calls with environment and stdin. Out: results, exit codes, and what iproute2 sees in both namespaces.
//! Invariant: what is expected of a pod's wiring is written as iproute2 prints it, not as the code makes it.
//! Never: asks the agent; a runtime cannot either.

use crate::story::{Story, story};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tests::{NetNs, Outcome, Pod, PodSpec, Probe::Tcp, netns, runtime::Call};

/// `cali` and 11 digits of SHA-1 over `x.a`, by another implementation.
fn host_interface_of(id: &str) -> Result<String> {
    let text = id.replace('/', ".");
    let sum = netns::run(std::process::Command::new("sh").args(["-c", &format!("printf %s {text} | sha1sum")]))?;
    Ok(format!("cali{}", &sum[..11]))
}

fn routes(namespace: &NetNs, family: &str) -> Result<Vec<String>> {
    let routes = namespace.ip_json(&format!("{family} route show"))?;
    let text = |route: &Value| {
        let part = |name: &str| route[name].as_str().map(|value| format!(" {name} {value}")).unwrap_or_default();
        format!("{}{}{}", route["dst"].as_str().unwrap_or_default(), part("gateway"), part("dev"))
    };
    let own = |line: &String| !line.starts_with("fe80::/64");
    Ok(routes.as_array().context("no routes")?.iter().map(text).filter(own).collect())
}

/// A call for a pod of this name in a namespace without an agent's work.
fn call_for(namespace: &NetNs, pod: &str) -> Call {
    Call {
        container: format!("box-{pod}"),
        netns: Some(namespace.path()),
        interface: "eth0".to_owned(),
        args: format!("K8S_POD_NAMESPACE=x;K8S_POD_NAME={pod}"),
        conf: json!({}),
    }
}

fn cali_count(s: &Story) -> Result<usize> {
    let links = s.node.namespace().ip_json("link show")?;
    let names = links.as_array().context("no links")?.iter().filter_map(|link| link["ifname"].as_str());
    Ok(names.filter(|name| name.starts_with("cali")).count())
}

#[test]
fn calc_2_the_host_interface_is_named_as_calico_names_it() -> Result<()> {
    story(&["x/a"], |s| {
        assert_eq!(s.pod("x/a")?.host_interface(), host_interface_of("x/a")?);
        Ok(())
    })
}

#[test]
fn calc_3_a_pod_is_wired_as_calico_wires_it() -> Result<()> {
    story(&["x/a"], |s| {
        let pod = s.pod("x/a")?;
        let [v4, v6] = [pod.addresses()[0], pod.addresses()[1]];
        assert_eq!(routes(pod.namespace(), "-4")?, ["default gateway 169.254.1.1 dev eth0", "169.254.1.1 dev eth0"]);
        let six = routes(pod.namespace(), "-6")?;
        assert!(six.contains(&"default gateway fe80::ecee:eeff:feee:eeee dev eth0".to_owned()), "{six:?}");
        let own = pod.namespace().ip_json("address show dev eth0")?;
        let has = |address: String, length: u64| {
            own[0]["addr_info"].as_array().is_some_and(|all| {
                all.iter().any(|info| info["local"] == address.as_str() && info["prefixlen"] == length)
            })
        };
        assert!(has(v4.to_string(), 32) && has(v6.to_string(), 128), "{own}");
        let host = s.node.namespace().ip_json(&format!("link show dev {}", pod.host_interface()))?;
        assert_eq!(host[0]["address"], "ee:ee:ee:ee:ee:ee");
        assert_eq!(host[0]["operstate"], "UP");
        for (family, address) in [("-4", v4), ("-6", v6)] {
            let all = routes(s.node.namespace(), family)?;
            assert!(all.contains(&format!("{address} dev {}", pod.host_interface())), "{all:?}");
        }
        Ok(())
    })
}

#[test]
fn calc_26_the_result_lists_both_interfaces_and_the_routes() -> Result<()> {
    story(&["x/a"], |s| {
        let pod = s.pod("x/a")?;
        let result = pod.result();
        assert_eq!(result["interfaces"][0]["mac"], "ee:ee:ee:ee:ee:ee");
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["sandbox"].as_str().map(Path::new), Some(pod.namespace().path().as_path()));
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(result["routes"][0]["gw"], "169.254.1.1");
        let link = pod.namespace().ip_json("link show dev eth0")?;
        assert_eq!(result["interfaces"][1]["mac"], link[0]["address"]);
        Ok(())
    })
}

#[test]
fn cni_81_to_83_results_have_the_shape_of_their_version() -> Result<()> {
    story(&[], |s| {
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let mut spec = PodSpec::new(&format!("x/v{}", version.replace('.', "-"))).silent();
            spec.conf = json!({ "cniVersion": version });
            let pod = s.node.pod(&s.cluster, &spec)?;
            let result = pod.result();
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["ips"][0]["version"].as_str(), (version < "1.0.0").then_some("4"));
            assert_eq!(result["interfaces"][0]["mtu"].is_u64(), version == "1.1.0");
        }
        Ok(())
    })
}

#[test]
fn cni_10_version_is_answered_without_agent_or_configuration() -> Result<()> {
    super::need_root()?;
    let cluster = tests::Cluster::create()?;
    let node = cluster.node(tests::NodeSpec::new(1))?;
    for input in ["{\"cniVersion\":\"1.0.0\"}", ""] {
        let answer = node.runtime().run(&[("CNI_COMMAND", "VERSION".to_owned())], input)?.success()?;
        assert_eq!(answer["supportedVersions"], json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
    Ok(())
}

#[test]
fn cni_e11_without_an_agent_add_is_tried_again_later_and_leaves_nothing() -> Result<()> {
    story(&[], |s| {
        s.node.agent.stop()?;
        let namespace = NetNs::create(s.cluster.stem(), "lonely")?;
        let (code, message) = s.node.runtime().call("ADD", &call_for(&namespace, "lonely"))?.failure()?;
        assert_eq!(code, 11, "{message}");
        assert!(message.contains("tortie.sock"), "{message}");
        assert_eq!(cali_count(s)?, 0);
        Ok(())
    })
}

#[test]
fn cni_30_a_second_add_for_the_same_container_changes_nothing_for_others() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let (runtime, call) = (s.node.runtime(), s.pod("x/a")?.call().clone());
        // Either answer is right; what counts is that nothing is doubled or lost.
        let again = runtime.call("ADD", &call)?;
        if again.exit == Some(0) {
            assert_eq!(again.success()?["ips"], s.pod("x/a")?.result()["ips"]);
        } else {
            again.failure()?;
        }
        assert_eq!(cali_count(s)?, 2);
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")
    })
}

#[test]
fn calc_13_and_16_a_new_sandbox_takes_over_and_the_late_del_of_the_old_one_harms_it_not() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let old = s.pods.remove("x/a").context("no pod x/a")?;
        let (runtime, old_call) = (s.node.runtime(), old.call().clone());
        let spec = PodSpec::new("x/a");
        let stem = format!("{}-again", s.cluster.stem());
        let new = Pod::start(&stem, &spec, &runtime)?;
        assert_ne!(new.address(), old.address(), "the old address is held until its DEL");
        assert_eq!(new.host_interface(), old.host_interface());
        runtime.call("DEL", &old_call)?.success()?;
        s.pods.insert("x/a".to_owned(), new);
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")
    })
}

#[test]
fn calc_17_cni_40_to_44_del_succeeds_for_what_is_not_there() -> Result<()> {
    story(&["x/a"], |s| {
        let runtime = s.node.runtime();
        let namespace = NetNs::create(s.cluster.stem(), "never")?;
        let mut never = call_for(&namespace, "never");
        runtime.call("DEL", &never)?.success()?;
        never.netns = None;
        runtime.call("DEL", &never)?.success()?;
        never.netns = Some("/run/netns/tortie-no-such-namespace".into());
        runtime.call("DEL", &never)?.success()?;
        let call = s.pod("x/a")?.call().clone();
        let mut gone = call.clone();
        gone.netns = None;
        runtime.call("DEL", &gone)?.success()?;
        runtime.call("DEL", &call)?.success()?;
        assert_eq!(cali_count(s)?, 0);
        Ok(())
    })
}

#[test]
fn cni_29_an_add_into_no_namespace_leaves_nothing() -> Result<()> {
    story(&["x/a"], |s| {
        let namespace = NetNs::create(s.cluster.stem(), "soon-gone")?;
        let mut call = call_for(&namespace, "ghost");
        call.netns = Some("/run/netns/tortie-no-such-namespace".into());
        s.node.runtime().call("ADD", &call)?.failure()?;
        assert_eq!(cali_count(s)?, 1);
        // The address that was not used is the next one given.
        let first = s.node.pod(&s.cluster, &PodSpec::new("x/b").silent())?;
        let shown = s.node.show("endpoints")?.to_string();
        assert!(shown.contains("x/b") && !shown.contains("ghost"), "{shown}");
        drop(first);
        Ok(())
    })
}

#[test]
fn cni_50_check_says_what_is_not_as_add_left_it() -> Result<()> {
    story(&["x/a"], |s| {
        let (runtime, pod) = (s.node.runtime(), s.pod("x/a")?);
        let mut call = pod.call().clone();
        call.conf = json!({ "prevResult": pod.result() });
        let answer = runtime.call("CHECK", &call)?;
        assert_eq!((answer.exit, answer.out.as_str()), (Some(0), ""), "{}", answer.err);
        runtime.call("CHECK", pod.call())?.failure()?;
        pod.namespace().ip(&["route del default via 169.254.1.1"])?;
        let (code, message) = runtime.call("CHECK", &call)?.failure()?;
        assert!(code >= 100 && message.contains("0.0.0.0/0"), "{code} {message}");
        Ok(())
    })
}

#[test]
fn calc_5_the_mtu_of_the_network_configuration_is_the_pods() -> Result<()> {
    story(&[], |s| {
        let mut spec = PodSpec::new("x/small").silent();
        spec.conf = json!({ "mtu": 1400 });
        let pod = s.node.pod(&s.cluster, &spec)?;
        assert_eq!(pod.namespace().ip_json("link show dev eth0")?[0]["mtu"], 1400);
        let host = s.node.namespace().ip_json(&format!("link show dev {}", pod.host_interface()))?;
        assert_eq!(host[0]["mtu"], 1400);
        Ok(())
    })
}

#[test]
fn thirty_adds_at_once_give_thirty_addresses() -> Result<()> {
    story(&["x/a"], |s| {
        let pods: Vec<Pod> = std::thread::scope(|scope| {
            let add = |number| {
                let (node, cluster) = (&s.node, &s.cluster);
                scope.spawn(move || node.pod(cluster, &PodSpec::new(&format!("many/p{number}")).silent()))
            };
            let adds: Vec<_> = (0..30).map(add).collect();
            let join = |add: std::thread::ScopedJoinHandle<'_, Result<Pod>>| {
                add.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            adds.into_iter().map(join).collect::<Result<_>>()
        })?;
        let mut addresses: Vec<_> = pods.iter().flat_map(|pod| pod.addresses().to_vec()).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 60);
        for pod in pods.iter().step_by(7) {
            assert_eq!(pod.probe(s.pod("x/a")?, Tcp(80))?, Outcome::Allowed, "{}", pod.id());
        }
        Ok(())
    })
}

#[test]
fn addresses_are_written_in_calicos_blocks() -> Result<()> {
    story(&["x/a"], |s| {
        let blocks = s.cluster.datastore().join(".tortie/IPAMBlock");
        let names: Vec<_> = fs::read_dir(&blocks)
            .with_context(|| format!("reading {}", blocks.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".yaml"))
            .collect();
        assert_eq!(names.len(), 2, "one block a family: {names:?}");
        let text = names.iter().map(|name| Ok(fs::read_to_string(blocks.join(name))?)).collect::<Result<String>>()?;
        assert!(text.contains("host:node1") && text.contains(&s.pod("x/a")?.call().container), "{text}");
        Ok(())
    })
}
