//! The reference runtime's own command line against the built binary: libcni reads every result (RUN-9).
//! In: networks of every version, capabilities, chains with Debian's plugins. Out: what `cnitool` says and exits with.
//! Invariant: its cache lies in a directory of the test's own.
//! Never: the kit's runtime, but for looking.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tests::{NetNs, Outcome, Probe::Tcp, Servers, binaries, places::Places, probe::probe, server::Listen};

/// One call's words.
struct Tool<'a> {
    story: &'a Story,
    places: Places,
    /// `CAP_ARGS`.
    capabilities: Value,
}

impl<'a> Tool<'a> {
    fn new(story: &'a Story) -> Result<Self> {
        Self::new_at(story, "cnitool")
    }

    /// With places under a name of their own.
    fn new_at(story: &'a Story, name: &str) -> Result<Self> {
        let places = Places::create(&story.cluster.directory().join(name), Some(story.node.runtime().plugin()))?;
        Ok(Self { story, places, capabilities: json!({}) })
    }

    /// The name of a network of this test, for libcni's cache has one place a machine.
    fn name(&self) -> String {
        format!("{}-net", self.story.cluster.stem())
    }

    fn network(&self, plugins: &Value, version: &str) -> Result<()> {
        self.places.network(&self.name(), plugins, version)
    }

    /// Our plugin's part of a list, with these members more.
    fn ours(&self, more: Value) -> Value {
        let mut conf =
            json!({ "type": "tortie-cni", "socket": self.story.node.socket(), "ipam": { "type": "tortie" } });
        if let (Some(members), Some(more)) = (conf.as_object_mut(), more.as_object()) {
            members.extend(more.clone());
        }
        conf
    }

    fn run(&self, command: &str, pod: &Path) -> Result<Value> {
        let mut call = self.places.command(self.story.node.namespace(), &binaries::cnitool()?)?;
        call.args([command, &self.name()]).arg(pod);
        call.env("NETCONFPATH", self.places.networks()).env("CNI_PATH", self.places.plugins());
        call.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME=tool");
        call.env("CAP_ARGS", self.capabilities.to_string());
        let output = call.output().context("starting cnitool")?;
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "cnitool {command}: {} {}", said.trim(), errors.trim());
        if said.trim().is_empty() { Ok(Value::Null) } else { serde_json::from_str(&said).context("reading its result") }
    }
}

/// A namespace that `cnitool` can open: `/run` is private there, so by this process' descriptor.
fn pod(s: &Story, role: &str) -> Result<(NetNs, PathBuf)> {
    let namespace = NetNs::create(s.cluster.stem(), role)?;
    let path = namespace.held_path();
    Ok((namespace, path))
}

fn left(s: &Story) -> Result<String> {
    Ok(s.node.namespace().ip_json("link show type veth")?.to_string())
}

#[test]
fn cni_24_64_every_command_works_in_every_version_of_libcni() -> Result<()> {
    story(&[], |s| {
        let before = left(s)?;
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let tool = Tool::new_at(s, version)?;
            tool.network(&json!([tool.ours(json!({}))]), version)?;
            let (_namespace, path) = pod(s, &format!("v{}", version.replace('.', "")))?;
            let result = tool.run("add", &path).with_context(|| version.to_owned())?;
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["ips"][0]["interface"], 1, "{result}");
            if version >= "0.4.0" {
                tool.run("check", &path)?;
            }
            tool.run("status", &path)?;
            tool.run("del", &path)?;
            tool.run("del", &path)?;
            // Whose namespace is gone, libcni collects.
            tool.run("add", &path)?;
            tool.run("gc", &path)?;
            assert_eq!(left(s)?, before, "{version}");
        }
        Ok(())
    })
}

#[test]
fn cni_94_to_97_capabilities_reach_us_as_libcni_hands_them_on() -> Result<()> {
    story(&[], |s| {
        let mut tool = Tool::new(s)?;
        let declared = json!({ "capabilities": { "mac": true, "ips": true, "aliases": true } });
        tool.network(&json!([tool.ours(declared)]), "1.0.0")?;
        tool.capabilities =
            json!({ "mac": "0a:58:0a:41:09:09", "ips": ["10.65.9.9"], "aliases": ["web"], "deviceID": "x" });
        let (namespace, path) = pod(s, "asked")?;
        let result = tool.run("add", &path)?;
        assert_eq!(result["ips"][0]["address"], "10.65.9.9/32", "{result}");
        assert_eq!(result["interfaces"][1]["mac"], "0a:58:0a:41:09:09");
        assert_eq!(namespace.ip_json("link show dev eth0")?[0]["address"], "0a:58:0a:41:09:09");
        tool.run("del", &path)?;
        // Not declared, they are not handed on.
        tool.network(&json!([tool.ours(json!({}))]), "1.0.0")?;
        assert_ne!(tool.run("add", &path)?["ips"][0]["address"], "10.65.9.9/32");
        tool.run("del", &path)?;
        Ok(())
    })
}

/// Sets a limit that nobody else sets.
fn tuning() -> Value {
    json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "500" } })
}

#[test]
fn cni_46_51_a_chain_with_tuning_behind_is_added_checked_and_taken_away() -> Result<()> {
    story(&[], |s| {
        let before = left(s)?;
        let tool = Tool::new(s)?;
        tool.network(&json!([tool.ours(json!({})), tuning()]), "1.0.0")?;
        let (namespace, path) = pod(s, "tuned")?;
        let result = tool.run("add", &path)?;
        assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(2), "{result}");
        assert_eq!(namespace.read("/proc/sys/net/core/somaxconn")?.trim(), "500");
        tool.run("check", &path)?;
        namespace.ip(&["route del default via 169.254.1.1"])?;
        let wrong = tool.run("check", &path).expect_err("a route is gone").to_string();
        assert!(wrong.contains("0.0.0.0/0"), "{wrong}");
        tool.run("del", &path)?;
        assert_eq!(left(s)?, before);
        Ok(())
    })
}

#[test]
fn cni_90_a_port_of_the_node_leads_to_the_pod_by_portmap_behind() -> Result<()> {
    story(&[], |s| {
        let mut tool = Tool::new(s)?;
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true });
        tool.network(&json!([tool.ours(json!({})), tuning(), portmap]), "1.0.0")?;
        tool.capabilities = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] });
        let (namespace, path) = pod(s, "mapped")?;
        // No CHECK: Debian's portmap looks for the rules of one family in the tables of both.
        tool.run("add", &path)?;
        let _servers = Servers::start(&namespace, "mapped", &[Listen::Tcp(80)])?;
        let own = s.node.addresses()[0];
        assert_eq!(probe(s.node.namespace(), own, Tcp(8080))?, Outcome::Allowed);
        tool.run("del", &path)?;
        assert_ne!(probe(s.node.namespace(), own, Tcp(8080))?, Outcome::Allowed);
        Ok(())
    })
}

#[test]
fn cni_90_a_port_of_the_node_leads_to_the_pod_by_our_own_capability() -> Result<()> {
    story(&["x/a"], |s| {
        let mut tool = Tool::new(s)?;
        tool.network(&json!([tool.ours(json!({ "capabilities": { "portMappings": true } })), tuning()]), "1.0.0")?;
        tool.capabilities = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] });
        let (namespace, path) = pod(s, "mapped")?;
        tool.run("add", &path)?;
        let _servers = Servers::start(&namespace, "mapped", &[Listen::Tcp(80)])?;
        let all = [s.cluster.outside(), s.pod("x/a")?.namespace(), &namespace];
        for address in s.node.addresses() {
            for from in all {
                assert_eq!(probe(from, address, Tcp(8080))?, Outcome::Allowed, "{address} from {}", from.name());
            }
        }
        tool.run("check", &path)?;
        tool.run("del", &path)?;
        tool.run("del", &path)?;
        for address in s.node.addresses() {
            assert_eq!(probe(s.cluster.outside(), address, Tcp(8080))?, Outcome::Reset);
        }
        Ok(())
    })
}

#[test]
fn cni_46_a_chain_that_fails_behind_us_is_taken_back_by_del() -> Result<()> {
    story(&[], |s| {
        let before = left(s)?;
        let tool = Tool::new(s)?;
        tool.network(&json!([tool.ours(json!({})), { "type": "tuning", "sysctl": { "net.no.such": "1" } }]), "1.0.0")?;
        let (_namespace, path) = pod(s, "broken")?;
        assert!(tool.run("add", &path).is_err());
        tool.run("del", &path)?;
        assert_eq!(left(s)?, before);
        assert_eq!(s.node.show("endpoints")?, json!([]));
        Ok(())
    })
}
