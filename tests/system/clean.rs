//! What Tortie leaves alone, and what it leaves behind: nothing.
//! In: a node before, during and after an agent. Out: netfilter's rules, links, pins, routes, neighbours, sysctls.
//! Invariant: what was there before the agent is there after `cleanup`, byte for byte.
//! Never: looks through the agent's eyes; only through the kernel's.

use crate::story::{Story, story, story_on};
use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use netlink::{Side, Socket};
use std::{ffi::CString, fs, path::Path, process::Command};
use tests::{Cluster, NetNs, NodeSpec, PodSpec, Probe::Tcp, netns};

/// Rules of nftables and of both iptables, as their own tools print them; comments left out.
pub fn rules(namespace: &NetNs) -> Result<String> {
    let mut all = String::new();
    for tool in ["nft list ruleset", "iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"]
    {
        let mut words = tool.split_whitespace();
        let program = words.next().context("an empty command")?;
        let path = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program));
        let path = path.iter().find(|path| path.exists()).with_context(|| format!("{program} is not installed"))?;
        all.push_str(&netns::run(namespace.command(path)?.args(words))?);
    }
    let is_rule = |line: &&str| !line.is_empty() && !line.starts_with('#');
    Ok(all.lines().filter(is_rule).collect::<Vec<_>>().join("\n"))
}

/// Every sysctl below `/proc/sys/net` that can be read, but for those that count or tell.
fn sysctls(namespace: &NetNs) -> Result<String> {
    let script = "cd /proc/sys/net && find ipv4 ipv6 core -type f ! -path '*/route/flush' | sort | \
                  while read -r f; do printf '%s = %s\\n' \"$f\" \"$(cat \"$f\" 2>/dev/null | tr '\\t\\n' '  ')\"; done";
    netns::run(namespace.command(Path::new("/bin/sh"))?.args(["-c", script]))
}

/// Links, addresses, routes and permanent neighbours.
fn network(namespace: &NetNs) -> Result<String> {
    let looks = [
        "-o link show",
        "-o address show",
        "-4 route show table all",
        "-6 route show table all",
        "neighbour show nud permanent",
    ];
    let look = |args: &&str| {
        let mut command = Command::new("ip");
        command.args(["-n", namespace.name()]).args(args.split_whitespace());
        netns::run(&mut command)
    };
    looks.iter().map(look).collect()
}

/// Names of the programs on each interface of `namespace`, by TCX and by clsact, and the clsacts, asked of the kernel.
pub fn attached(namespace: &NetNs) -> Result<Vec<String>> {
    let links = namespace.ip_json("link show")?;
    let names: Vec<_> = links.as_array().context("no links")?.iter().filter_map(|l| l["ifname"].as_str()).collect();
    namespace.inside(|| {
        let mut found = Vec::new();
        for name in names {
            for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                let (_, programs) =
                    SchedClassifier::query_tcx(&*CString::new(name)?, hook).context("asking for TCX programs")?;
                found.extend(
                    programs
                        .iter()
                        .map(|program| format!("{name} {hook:?} {}", program.name_as_str().unwrap_or_default())),
                );
            }
        }
        let mut socket = Socket::open()?;
        for interface in socket.filtered_links()? {
            found.push(format!("clsact of {}", interface.0));
            for side in [Side::Ingress, Side::Egress] {
                let filters = socket.filters(interface, side)?;
                found.extend(filters.iter().map(|filter| format!("{} {side:?} {}", interface.0, filter.name)));
            }
        }
        Ok(found)
    })
}

fn pins(s: &Story) -> Result<usize> {
    count(&s.node.bpffs())
}

/// Files below a directory; none, if it is not there.
fn count(directory: &Path) -> Result<usize> {
    let mut found = 0;
    if !directory.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        found += if path.is_dir() { count(&path)? } else { 1 };
    }
    Ok(found)
}

#[test]
fn no_rule_of_nftables_or_iptables_is_on_the_way() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ from: [{ podSelector: {} }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/a X\n node1 .")?;
        assert_eq!(rules(s.node.namespace())?, "");
        let tracked = s.node.namespace().read("/proc/sys/net/netfilter/nf_conntrack_count");
        assert_eq!(tracked.map_or("0".to_owned(), |text| text.trim().to_owned()), "0");
        Ok(())
    })
}

#[test]
fn cleanup_leaves_the_node_as_it_was() -> Result<()> {
    leaves_the_node_as_it_was(NodeSpec::new(1))
}

#[test]
fn cleanup_leaves_a_node_without_cgroups_as_it_was() -> Result<()> {
    leaves_the_node_as_it_was(NodeSpec::new(1).cgroup(Some("none".as_ref())))
}

#[test]
fn by_clsact_cleanup_leaves_a_node_without_cgroups_as_it_was() -> Result<()> {
    leaves_the_node_as_it_was(NodeSpec::new(1).cgroup(Some("none".as_ref())).by_clsact())
}

#[test]
fn by_clsact_cleanup_leaves_the_node_as_it_was() -> Result<()> {
    leaves_the_node_as_it_was(NodeSpec::new(1).by_clsact())
}

fn leaves_the_node_as_it_was(spec: NodeSpec) -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    let mut node = cluster.node(spec)?;
    let before = (network(node.namespace())?, sysctls(node.namespace())?, attached(node.namespace())?);
    node.start()?;
    let mut pods = [node.pod(&cluster, &PodSpec::new("x/a"))?, node.pod(&cluster, &PodSpec::new("x/b"))?];
    assert_ne!(attached(node.namespace())?, before.2, "the programs are not seen");
    for pod in &mut pods {
        pod.delete()?;
    }
    node.agent.stop()?;
    assert_ne!(count(&node.bpffs())?, 0);
    let cleaned = node.cleanup()?;
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    assert_eq!(count(&node.bpffs())?, 0, "pins are left");
    assert_eq!(attached(node.namespace())?, before.2, "programs are left");
    assert_eq!(network(node.namespace())?, before.0);
    assert_eq!(sysctls(node.namespace())?, before.1);
    assert!(!node.socket().exists(), "the socket is left");
    Ok(())
}

#[test]
fn cleanup_under_pods_takes_programs_routes_and_pins() -> Result<()> {
    takes_programs_routes_and_pins(NodeSpec::new(1))
}

#[test]
fn by_clsact_cleanup_under_pods_takes_programs_routes_and_pins() -> Result<()> {
    takes_programs_routes_and_pins(NodeSpec::new(1).by_clsact())
}

fn takes_programs_routes_and_pins(spec: NodeSpec) -> Result<()> {
    story_on(spec, &["x/a", "x/b"], |s| {
        assert_ne!(pins(s)?, 0);
        assert_ne!(attached(s.node.namespace())?, [""; 0], "the programs are not seen");
        s.node.agent.stop()?;
        // A pod that another network serves, whose interfaces are named alike.
        s.node.namespace().ip(&["link add caliother type veth peer name other", "link set caliother up"])?;
        let theirs = "10.99.0.1 dev caliother lladdr 02:00:00:00:00:01";
        s.node.namespace().ip(&[&format!("neighbour add {theirs} nud permanent")])?;
        let cleaned = s.node.cleanup()?;
        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        assert_eq!(pins(s)?, 0, "pins are left");
        assert_eq!(attached(s.node.namespace())?, [""; 0], "programs are left");
        let neighbours = s.node.namespace().ip_json("neighbour show nud permanent")?;
        let on: Vec<_> = neighbours.as_array().context("a list")?.iter().map(|one| one["dev"].clone()).collect();
        assert_eq!(on, ["caliother"], "ours are left, or another's is gone");
        let routes = s.node.namespace().ip_json("route show")?.to_string();
        assert!(!routes.contains("cali"), "{routes}");
        Ok(())
    })
}

#[test]
fn a_cleanup_that_is_refused_touches_nothing_and_anothers_configuration_for_runtimes_does_not_end_it() -> Result<()> {
    story(&["x/a"], |s| {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("05-tortie.conflist");
        let cleaned = |s: &Story, text: &str| {
            fs::write(&path, text)?;
            let done = s.node.cleanup_with(&["--cni-conf".as_ref(), path.as_os_str()])?;
            let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
            anyhow::Ok((done.status.success(), said))
        };
        let (is_done, said) = cleaned(s, r#"{"plugins": [{"type": "tortie-cni"}]}"#)?;
        assert!(!is_done && said.contains("in use by another agent"), "{said}");
        assert!(path.exists(), "runtimes do not find the agent that runs: {said}");
        assert_ne!(pins(s)?, 0);
        s.node.agent.stop()?;
        let (is_done, said) = cleaned(s, r#"{"plugins": [{"type": "calico"}]}"#)?;
        assert!(is_done && said.contains("05-tortie.conflist: it is another network's"), "{said}");
        assert_eq!((path.exists(), pins(s)?), (true, 0));
        Ok(())
    })
}

#[test]
fn no_global_setting_changes_while_the_agent_runs() -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    let global = |text: String| -> Vec<String> {
        let own =
            |line: &&str| !line.contains("/conf/cali") && !line.contains("/neigh/cali") && !line.contains("/eth0/");
        text.lines().filter(own).map(str::to_owned).collect()
    };
    let before = global(sysctls(node.namespace())?);
    node.start()?;
    let _pod = node.pod(&cluster, &PodSpec::new("x/a"))?;
    assert_eq!(global(sysctls(node.namespace())?), before);
    Ok(())
}
