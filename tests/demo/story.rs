//! The story, step by step.
//! In: a stage. Out: what happened, said as it happens.
//! Invariant: a step that does not come true ends the story with an error.
//! Never: prints what it did not see.

use crate::{
    service,
    stage::{CAST, DATABASE, Stage, WEB},
};
use anyhow::{Context as _, Result, ensure};
use std::{
    io::{IsTerminal as _, stdout},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{self, Command},
    time::{Duration, Instant},
};
use tests::{
    BarePair, Node, Outcome, Probe,
    frame::FrameSocket,
    netns::{self, STEM},
    probe::probe,
    traffic::{self, Row, Way},
    wait,
};

/// The policy of the story, as a user would write it.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: db-from-web }
spec:
  podSelector: { matchLabels: { pod: db } }
  ingress:
  - from: [{ podSelector: { matchLabels: { pod: web } } }]
    ports: [{ protocol: TCP, port: 5432 }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: web-from-shop }
spec:
  podSelector: { matchLabels: { pod: web } }
  ingress:
  - from: [{ podSelector: {} }]
";

/// Who tries what in the story, and whether the policy lets it.
const CALLS: &[(&str, &str, u16, bool)] = &[
    ("shop/client", "shop/web", WEB, true),
    ("shop/web", "shop/db", DATABASE, true),
    ("shop/client", "shop/db", DATABASE, false),
    ("other/stranger", "shop/web", WEB, false),
    ("other/stranger", "shop/db", DATABASE, false),
];

/// Tells it.
pub fn tell(stage: &mut Stage) -> Result<()> {
    step("A node: a network namespace with an uplink, no default route, no agent yet")?;
    bare_node(stage)?;
    step("The agent starts: programs verified, maps and links pinned, manifests read")?;
    let start = Instant::now();
    stage.node.start()?;
    say(&format!("ready after {} ms, its log is {}", start.elapsed().as_millis(), stage.node.log_path().display()));
    step("Five pods come up through tortie-cni, as a container runtime would call it")?;
    pods(stage)?;
    step("ARP and neighbour discovery are answered, with no default route and proxy_arp off")?;
    neighbours(stage)?;
    step("No policy: everybody reaches everybody, IPv4 and IPv6")?;
    calls(stage, false)?;
    step("A policy file is dropped into the directory")?;
    policy(stage)?;
    step("Now the policy decides")?;
    calls(stage, true)?;
    step("Why was the client refused? `tortie explain` asks the kernel's own tables")?;
    explain(stage)?;
    step("A Service: one address for two web servers; policy asks about the one that the packet goes to")?;
    service::show(stage)?;
    step("The agent is killed and started again under running connections")?;
    kill(stage)?;
    step("No rule of nftables or iptables is on the way")?;
    no_rules(&stage.node)?;
    step("Round trips from the client to the web server, which a policy guards, against a bare veth pair")?;
    latency(stage)
}

/// Takes everything down, and looks that it is gone.
pub fn close(mut stage: Stage) -> Result<()> {
    step("Everything is removed again")?;
    let (stem, directory) = (stage.cluster.stem().to_owned(), stage.cluster.directory().to_owned());
    for pod in &mut stage.pods {
        pod.delete()?;
    }
    stage.node.agent.stop()?;
    let cleaned = stage.node.cleanup()?;
    ensure!(cleaned.status.success(), "tortie cleanup: {}", String::from_utf8_lossy(&cleaned.stderr));
    drop(stage);
    is_gone(&stem, &directory)
}

/// Looks that nothing of a stage is left, and says so.
pub fn is_gone(stem: &str, directory: &Path) -> Result<()> {
    let left = netns::run(Command::new("ip").args(["netns", "list"]))?;
    ensure!(!left.contains(stem), "namespaces are left: {left}");
    ensure!(!directory.exists(), "{} is left", directory.display());
    say("pods deleted, agents stopped, `tortie cleanup` done, namespaces gone");
    println!("\nAll of it came true.");
    Ok(())
}

/// A heading, counted by the caller's place in the story.
pub fn step(what: &str) -> Result<()> {
    wait::check_interrupt()?;
    if stdout().is_terminal() {
        println!("\n\x1b[1m{what}\x1b[0m");
    } else {
        println!("\n{what}");
    }
    Ok(())
}

pub fn say(what: &str) {
    for line in what.lines() {
        println!("    {line}");
    }
}

fn bare_node(stage: &Stage) -> Result<()> {
    for family in ["-4", "-6"] {
        let routes = stage.node.namespace().ip_json(&format!("{family} route show default"))?;
        ensure!(routes.as_array().is_some_and(Vec::is_empty), "the node has a default route: {routes}");
    }
    let addresses: Vec<_> = stage.node.addresses().iter().map(ToString::to_string).collect();
    say(&format!("namespace {}, eth0 has {}", stage.node.namespace().name(), addresses.join(" and ")));
    Ok(())
}

fn pods(stage: &mut Stage) -> Result<()> {
    for (id, ports) in CAST {
        let start = Instant::now();
        let pod = stage.enter(id, ports)?;
        let took = start.elapsed().as_millis();
        let addresses: Vec<_> = pod.addresses().iter().map(ToString::to_string).collect();
        say(&format!("{id:15} {:40} {}  ({took} ms)", addresses.join(" "), pod.host_interface()));
    }
    Ok(())
}

fn neighbours(stage: &Stage) -> Result<()> {
    let pod = stage.pod("shop/client")?;
    let socket = FrameSocket::open(pod.namespace(), "eth0")?;
    for address in pod.addresses() {
        let (question, answer) = match address {
            IpAddr::V4(own) => {
                let gateway = Ipv4Addr::new(169, 254, 1, 1);
                (format!("who has {gateway}?"), socket.arp(*own, gateway)?)
            }
            IpAddr::V6(own) => {
                let gateway: Ipv6Addr = "fe80::ecee:eeff:feee:eeee".parse()?;
                (format!("who has {gateway}?"), socket.solicit(*own, gateway)?)
            }
        };
        let mac = answer.with_context(|| format!("{question} was not answered"))?;
        say(&format!("{question:38} {}", mac.map(|byte| format!("{byte:02x}")).join(":")));
    }
    let path = format!("/proc/sys/net/ipv4/conf/{}/proxy_arp", pod.host_interface());
    let proxy = stage.node.namespace().read(&path)?;
    ensure!(proxy.trim() == "0", "proxy_arp is {proxy}");
    say(&format!("proxy_arp of {} is {}", pod.host_interface(), proxy.trim()));
    Ok(())
}

/// Every call of the story, over both families; with a policy, each waits until it is as the policy says.
fn calls(stage: &Stage, policed: bool) -> Result<()> {
    for (from, to, port, allowed) in CALLS {
        let wanted = if *allowed || !policed { Outcome::Allowed } else { Outcome::Refused };
        let (client, server) = (stage.pod(from)?, stage.pod(to)?);
        for address in server.addresses() {
            let what = format!("{from} to {to} ({address}) is {wanted}");
            wait::wait_until(&what, wait::PATIENCE, || {
                Ok(probe(client.namespace(), *address, Probe::Tcp(*port))? == wanted)
            })?;
        }
        say(&format!("{from:15} to {to:9} port {port:<5} {wanted}"));
    }
    Ok(())
}

fn policy(stage: &Stage) -> Result<()> {
    say(POLICY);
    let (client, server) = (stage.pod("shop/client")?, stage.pod("shop/db")?);
    let mut connection = client.connect(server, DATABASE)?;
    ensure!(connection.answers()?, "the connection does not answer");
    stage.cluster.manifest("policy", POLICY)?;
    wait::wait_until("the policy is in force", wait::PATIENCE, || {
        Ok(client.probe(server, Probe::Tcp(DATABASE))? == Outcome::Refused)
    })?;
    ensure!(!connection.answers()?, "a connection outlived the policy that refuses it");
    say(&format!("saved as {}", stage.cluster.datastore().join("policy.yaml").display()));
    say("a connection from the client to the database, open before, was cut");
    Ok(())
}

fn explain(stage: &Stage) -> Result<()> {
    let port = DATABASE.to_string();
    let arguments = ["explain", "--from", "shop/client", "--to", "shop/db", "--port", &port, "--proto", "tcp"];
    say(&format!("$ tortie {}", arguments.join(" ")));
    let output = stage.node.tortie(&arguments)?;
    let said = String::from_utf8_lossy(&output.stdout);
    say(&said);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "it does not say that the client is refused: {errors}");
    ensure!(said.contains("shop/db-from-web"), "it does not name the policy");
    Ok(())
}

fn kill(stage: &mut Stage) -> Result<()> {
    let (client, server) = (stage.pod("shop/web")?, stage.pod("shop/db")?);
    let stream = client.tcp_stream(server, DATABASE)?;
    stage.node.agent.kill()?;
    say("kill -9; the rules stay in force without it:");
    calls(stage, true)?;
    let start = Instant::now();
    stage.node.start()?;
    say(&format!("started again, ready after {} ms", start.elapsed().as_millis()));
    let repeated = stream.sent_again([stage.pod("shop/web")?.namespace(), stage.pod("shop/db")?.namespace()])?;
    let report = stream.stop()?;
    say(&format!(
        "the stream from web to db: {} words and answers, {} lost, {repeated} TCP segments sent again",
        report.sent,
        report.lost()
    ));
    ensure!(report.lost() == 0 && repeated == 0, "packets were lost");
    Ok(())
}

/// Neither nftables nor iptables has a rule on this node.
pub fn no_rules(node: &Node) -> Result<()> {
    for tool in ["nft list ruleset", "iptables-save", "ip6tables-save"] {
        let mut words = tool.split_whitespace();
        let program = Path::new("/usr/sbin").join(words.next().unwrap_or_default());
        if !program.exists() {
            say(&format!("{tool:17} is not installed here"));
            continue;
        }
        let said = netns::run(node.namespace().command(&program)?.args(words))?;
        let lines = said.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        ensure!(lines == 0, "{tool} is not empty:\n{said}");
        say(&format!("{tool:17} empty"));
    }
    Ok(())
}

fn latency(stage: &Stage) -> Result<()> {
    const ROUNDS: usize = 5;
    let window = Duration::from_millis(200);
    let pair = BarePair::create(&format!("{STEM}{}-bare", process::id()))?;
    let bare = pair.way();
    let (client, server) = (stage.pod("shop/client")?, stage.pod("shop/web")?);
    let pods = Way::direct(client.namespace(), server.namespace(), server.address());
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        wait::check_interrupt()?;
        let bare = traffic::measure(&bare, Row::RoundTrips, window)?;
        rounds.push((traffic::measure(&pods, Row::RoundTrips, window)? / bare, bare));
    }
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, bare) = rounds[ROUNDS / 2];
    let micros = |per_second: f64| 1e6 / per_second;
    say(&format!(
        "{:.1} us through Tortie, {:.1} us bare: {ratio:.2} of its rate (median of {ROUNDS} rounds)",
        micros(bare * ratio),
        micros(bare)
    ));
    Ok(())
}
