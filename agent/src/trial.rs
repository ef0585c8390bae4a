//! `policy test`: what would change if these files were applied, or if what they name were gone.
//! In: files' texts; the running agent's World and flows, or a directory. Out: flows, pods and peers whose verdicts would be others.
//! Invariant: nothing is applied; a file that cannot be read whole is no answer; what was not looked at is said.
//! Never: guesses beyond what was compared.

use crate::{
    kernel::Kernel,
    owner::Agent,
    rerouted::{self, rerouted},
};
use calc::{Comparison, Desired, Difference, HostDifference, Live, Trial, World, compare};
use cni::protocol::File;
use dataplane::{Gate, StoreError, TrackedFlow};
use datastore::{Problem, snapshot};
use model::{
    Attachment, AttachmentId, Cidr, Direction, FIRST_INTERFACE, HostEndpoint, HostInterface, IfaceName, Mac, NodeName,
    PodId, Resource, ResourceKey, Update,
};
use policy::{Endpoint, HostLayer, Verdict, stretch};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

/// Flows that are listed.
const LISTED_MAX: usize = 256;
/// Where pods without an address are put: no network of anybody's (RFC 1112), so only rules for all addresses meet them by it.
const NOWHERE: u32 = 0xf000_0000;

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// A file.
    #[error("{0}; nothing was tested")]
    File(#[from] Problem),
    /// There is nothing to test.
    #[error("these files hold no object that policy or services are made of; nothing was tested")]
    Nothing,
    /// An object in two files.
    #[error("{0} stands in two of these files; nothing was tested")]
    Twice(ResourceKey),
    /// Too early.
    #[error("the agent is still reading the datastore; try again")]
    NotInSync,
    /// The kernel does not say.
    #[error(transparent)]
    Flows(#[from] StoreError),
    /// The directory.
    #[error("{path}: cannot be read: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What says nothing of who may speak to whom.
fn is_of_addresses(key: &ResourceKey) -> bool {
    matches!(
        key,
        ResourceKey::IpPool(_)
            | ResourceKey::IpReservation(_)
            | ResourceKey::IpamConfig(_)
            | ResourceKey::BlockClaim(_)
            | ResourceKey::WorkloadAddress(_)
            | ResourceKey::NodeVteps(_)
            | ResourceKey::NodeAddresses(_)
    )
}

/// What the files would tell the datastore.
fn updates(files: &[File], delete: bool) -> Result<Vec<Update>, TestError> {
    let (mut updates, mut known) = (Vec::new(), BTreeSet::new());
    for file in files {
        for object in snapshot::file(Path::new(&file.name), &file.text)? {
            let key = object.key();
            if is_of_addresses(&key) {
                continue;
            }
            if !known.insert(key.clone()) {
                return Err(TestError::Twice(key));
            }
            updates.push(if delete { Update::Gone(key) } else { Update::Set(object) });
        }
    }
    if updates.is_empty() { Err(TestError::Nothing) } else { Ok(updates) }
}

/// What a test is worked out from; the owner need not wait for it.
#[derive(Debug)]
pub struct Gathered {
    node: NodeName,
    changes: Vec<String>,
    names: BTreeMap<IpAddr, PodId>,
    flows: Vec<TrackedFlow>,
    keeps: bool,
    now: Desired,
    then: Desired,
}

/// Asks the running agent's own World what it would want, and the kernel for its flows.
pub fn gather<K: Kernel>(agent: &mut Agent<K>, files: &[File], delete: bool) -> Result<Gathered, TestError> {
    let updates = updates(files, delete)?;
    let flows = agent.kernel.tracked()?;
    let (changes, names) = (told(&updates), agent.world.pods_by_address());
    let keeps = agent.world.keeps_established();
    let both = agent.world.supposing(updates, |now, then| (now.clone(), then.clone()));
    let (now, then) = both.ok_or(TestError::NotInSync)?;
    Ok(Gathered { node: agent.node.name.clone(), changes, names, flows, keeps, now, then })
}

impl Gathered {
    /// The answer.
    pub fn report(self) -> Value {
        let Self { node, changes, names, flows, keeps, now, then } = self;
        let found = compare(&now, &then);
        let mut unlooked = vec![format!(
            "pods of other nodes than {node} are judged by their own agents: only the end on this node was asked"
        )];
        unlooked
            .push("flows whose first packet was refused leave no trace: see what is said of pods and ports".to_owned());
        if now.node != then.node {
            unlooked
                .push("what this node as a whole asks of pods: flows that are there were asked, no others".to_owned());
        }
        if keeps {
            let said = "establishedFlows is keep: flows that are there go on, and new ones like them are meant";
            unlooked.push(said.to_owned());
        }
        let services = rerouted(&now, &then, &flows);
        let report = Report { changes, found: &found, names: &names, services, unlooked };
        report.with_flows(&judged(&flows, &now, &then), flows.len())
    }
}

/// Asks a directory of manifests, as if every pod in it were on one node.
pub fn of_directory(dir: &Path, files: &[File], delete: bool) -> Result<Value, TestError> {
    let updates = updates(files, delete)?;
    let failed = |source| TestError::Directory { path: dir.to_owned(), source };
    let (objects, problems) = snapshot::directory(dir).map_err(failed)?;
    let (told_world, placed_world) = (World::new("".into(), false), Live::new("".into(), false));
    let mut directory = Directory { told: told_world, placed: placed_world, interfaces: BTreeMap::new() };
    objects.into_iter().for_each(|object| directory.apply(Update::Set(object)));
    directory.apply(Update::InSync);
    let mut placed = Placed::default();
    directory.place(&mut placed);
    let now = directory.placed.desired().cloned().ok_or(TestError::NotInSync)?;
    let changes = told(&updates);
    updates.into_iter().for_each(|update| directory.apply(update));
    directory.place(&mut placed);
    let then = directory.placed.desired().ok_or(TestError::NotInSync)?;
    let (found, services) = (compare(&now, then), rerouted(&now, then, &[]));
    let mut unlooked =
        vec!["flows: that needs a running agent (leave out --datastore, and name its --socket)".to_owned()];
    unlooked.push("traffic of nodes, and host endpoints of all their interfaces".to_owned());
    if !placed.invented.is_empty() {
        unlooked.push(format!(
            "the addresses of {} pods that have none yet: rules that name networks may meet them otherwise",
            placed.invented.len()
        ));
    }
    unlooked.extend(problems.iter().map(|problem| format!("what cannot be read: {problem}")));
    Ok(Report { changes, found: &found, names: &placed.names, services, unlooked }.without_flows())
}

fn told(updates: &[Update]) -> Vec<String> {
    let said = |update: &Update| match update {
        Update::Set(object) => Some(format!("set {}", object.key())),
        Update::Gone(key) => Some(format!("delete {key}")),
        Update::InSync | Update::Anew { .. } => None,
    };
    updates.iter().filter_map(said).collect()
}

/// A flow whose verdict would be another, and by what.
type Judged<'a> = (&'a TrackedFlow, String, bool);

/// What this node opened itself is let in by its pods whatever policy says.
fn judged<'a>(flows: &'a [TrackedFlow], now: &Desired, then: &Desired) -> Vec<Judged<'a>> {
    let (mut now, mut then) = (Trial::of(now), Trial::of(then));
    let mut judged = Vec::new();
    let is_judged = |each: &&TrackedFlow| !each.is_hosts_own || each.gate.is_some() || each.uplink.is_some();
    for each in flows.iter().filter(is_judged) {
        let was_refused = each.is_refused || refuses(&mut now, each).0;
        let (is_refused, by) = refuses(&mut then, each);
        if was_refused != is_refused {
            judged.push((each, by, !is_refused));
        }
    }
    judged
}

/// Whether it would be refused if it began now, and by what, or what would let it pass.
fn refuses(trial: &mut Trial<'_>, tracked: &TrackedFlow) -> (bool, String) {
    let flow = &tracked.flow;
    if let Some(Gate { interface, direction, last }) = &tracked.gate {
        let judged = trial.at_gate(interface, *direction, *last, flow);
        let open = || "no host endpoint asks anything".to_owned();
        let said = judged.as_ref().map_or_else(open, ToString::to_string);
        return (judged.is_some_and(|judged| judged.verdict == Verdict::Deny), said);
    }
    let behind = tracked.uplink.as_ref().and_then(|uplink| trial.refused_behind(uplink, flow));
    if let Some(refused) = behind {
        return (true, format!("the host endpoint of the uplink, of the backend: {refused}"));
    }
    let outcome = trial.outcome(flow);
    let by_sender = outcome.egress.as_ref().is_some_and(|egress| egress.verdict == Verdict::Deny);
    match trial.refused_at_pods(flow).filter(|_| !by_sender) {
        Some(refused) => (true, format!("the host endpoint of all interfaces: {refused}")),
        None => (outcome.verdict() == Verdict::Deny, outcome.to_string()),
    }
}

#[derive(Default)]
struct Placed {
    names: BTreeMap<IpAddr, PodId>,
    /// Addresses of pods that have none.
    invented: BTreeMap<PodId, IpAddr>,
}

/// A directory as it stands, and with every pod on the one node that it is seen from, which has the interfaces of all.
struct Directory {
    told: World,
    placed: Live,
    /// Those that host endpoints mean, by the host endpoint.
    interfaces: BTreeMap<String, IfaceName>,
}

impl Directory {
    fn apply(&mut self, update: Update) {
        self.told.apply(update.clone());
        let update = match update {
            Update::Set(Resource::HostEndpoint(host)) => Update::Set(Resource::HostEndpoint(self.lend(host))),
            Update::Gone(ResourceKey::HostEndpoint(name)) => {
                self.interfaces.remove(&name);
                Update::Gone(ResourceKey::HostEndpoint(name))
            }
            other => other,
        };
        self.placed.apply(update);
    }

    /// A host endpoint of one interface, at an interface of that name and node. What one of all interfaces governs no directory says.
    fn lend(&mut self, host: HostEndpoint) -> HostEndpoint {
        let interface = match &host.interface {
            Some(HostInterface::Named(name)) => name.to_string(),
            None => host.expected_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            Some(HostInterface::Any) => {
                self.interfaces.remove(&host.name);
                return host;
            }
        };
        let interface = IfaceName(format!("{interface} of {}", host.node));
        self.interfaces.insert(host.name.clone(), interface.clone());
        HostEndpoint { node: "".into(), interface: Some(HostInterface::Named(interface)), ..host }
    }

    /// Attaches the pods that are there now. One without an address is put where nobody is.
    fn place(&mut self, known: &mut Placed) {
        let mut gone: BTreeSet<_> = self.placed.attachments().map(|attachment| attachment.id.clone()).collect();
        for mut pod in self.told.endpoints() {
            if pod.addresses.is_empty() {
                let next = Ipv4Addr::from(NOWHERE + u32::try_from(known.invented.len()).unwrap_or_default());
                pod.addresses.push(*known.invented.entry(pod.id.clone()).or_insert(next.into()));
            }
            known.names.extend(pod.addresses.iter().map(|address| (*address, pod.id.clone())));
            let attachment = attached(pod);
            gone.remove(&attachment.id);
            if self.placed.attachment(&attachment.id) != Some(&attachment) {
                self.placed.attach(attachment);
            }
        }
        for id in gone {
            self.placed.detach(&id);
        }
        let interfaces = self.interfaces.values().map(|name| (name.clone(), BTreeSet::new()));
        self.placed.set_host_interfaces(interfaces.collect());
    }
}

fn attached(pod: Endpoint) -> Attachment {
    let name = pod.id.to_string();
    Attachment {
        id: AttachmentId { network: String::new(), container: name.clone(), interface: FIRST_INTERFACE.to_owned() },
        pod: pod.id,
        host_interface: IfaceName(name),
        mac: Mac([0; 6]),
        addresses: pod.addresses,
        mtu: 0,
        labels: pod.labels,
        delegated: false,
        host_ports: Vec::new(),
        floating_ips: true,
        named: false,
        committed: true,
    }
}

struct Report<'a> {
    changes: Vec<String>,
    found: &'a Comparison,
    names: &'a BTreeMap<IpAddr, PodId>,
    services: Value,
    unlooked: Vec<String>,
}

impl Report<'_> {
    fn without_flows(self) -> Value {
        self.say(false, json!(null))
    }

    fn with_flows(self, judged: &[Judged<'_>], looked: usize) -> Value {
        let listed = |lets_in: bool| {
            let of = judged.iter().filter(|(.., is)| *is == lets_in).take(LISTED_MAX);
            of.map(|(flow, by, _)| self.flow(flow, by)).collect::<Vec<_>>()
        };
        let count = |lets_in: bool| judged.iter().filter(|(.., is)| *is == lets_in).count();
        let flows = json!({
            "lookedAt": looked,
            "wouldBeRefused": count(false),
            "wouldBeLetIn": count(true),
            "refused": listed(false),
            "letIn": listed(true),
        });
        self.say(!judged.is_empty(), flows)
    }

    fn say(mut self, flows_change: bool, flows: Value) -> Value {
        let Comparison { pods, differences, at_hosts, unlisted, unlooked } = self.found;
        if unlisted + unlooked > 0 {
            self.unlooked
                .push(format!("{unlooked} pairs of groups of addresses; {unlisted} differences are not listed"));
        }
        // Both families often say the same.
        let between: BTreeSet<String> = differences.iter().map(|found| self.between(found).to_string()).collect();
        let between: Vec<Value> = between.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        let at_hosts: BTreeSet<String> = at_hosts.iter().map(|found| self.at_host(found).to_string()).collect();
        let at_hosts: Vec<Value> = at_hosts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        let differs = flows_change || !differences.is_empty() || !at_hosts.is_empty() || !self.services.is_null();
        json!({
            "changes": self.changes,
            "verdict": if differs { "differs" } else if *unlooked > 0 { "unknown" } else { "same" },
            "pods": pods.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "flows": flows,
            "between": between,
            "atHostEndpoints": at_hosts,
            "services": self.services,
            "notLookedAt": self.unlooked,
        })
    }

    fn between(&self, found: &Difference) -> Value {
        json!({
            "would": if found.lets_in { "be let in" } else { "be refused" },
            "from": self.places(&found.from),
            "to": self.places(&found.to),
            "what": found.what.iter().flat_map(stretch::said).collect::<Vec<_>>(),
            "by": found.by.to_string(),
        })
    }

    fn at_host(&self, found: &HostDifference) -> Value {
        let anybody = || vec!["whoever is there".to_owned()];
        let own = if found.own.is_empty() { anybody() } else { self.places(&found.own) };
        let ends = match found.direction {
            Direction::Ingress => (self.places(&found.peers), own),
            Direction::Egress => (own, self.places(&found.peers)),
        };
        let layer = match found.layer {
            HostLayer::Untracked => "untracked",
            HostLayer::PreDnat => "preDNAT",
            HostLayer::Forward => "forward",
            HostLayer::Local => "local",
        };
        json!({
            "would": if found.lets_in { "pass" } else { "be refused" },
            "interface": found.interface.to_string(),
            "layer": layer,
            "direction": found.direction.to_string(),
            "from": ends.0,
            "to": ends.1,
            "what": found.what.iter().flat_map(stretch::said).collect::<Vec<_>>(),
            "by": found.by.to_string(),
        })
    }

    fn places(&self, places: &[Cidr]) -> Vec<String> {
        let names: BTreeSet<String> = places.iter().map(|place| self.place(place)).collect();
        names.into_iter().collect()
    }

    fn place(&self, place: &Cidr) -> String {
        match self.names.get(&place.network()).filter(|_| *place == Cidr::host(place.network())) {
            Some(pod) => pod.to_string(),
            None if *place == Cidr::all(place.family()) => "everybody else".to_owned(),
            None => place.to_string(),
        }
    }

    fn flow(&self, tracked: &TrackedFlow, by: &str) -> Value {
        let (source, destination) = tracked.ends();
        let pod = |address| self.names.get(&address).map(ToString::to_string);
        json!({
            "protocol": tracked.flow.protocol.to_string(),
            "source": source.to_string(),
            "sourcePort": tracked.source_port,
            "sourcePod": pod(source),
            "destination": destination.to_string(),
            "destinationPort": tracked.destination_port,
            "destinationPod": pod(destination),
            "state": tracked.state,
            "hostEndpoint": tracked.gate.as_ref().map(|gate| gate.interface.to_string()),
            "by": by,
        })
    }
}

/// Reads the files that were named; `-` is standard input.
pub fn files(names: &[String]) -> Result<Vec<File>, TestError> {
    let read = |name: &String| {
        let text = if name == "-" { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(name) };
        let problem = |error: io::Error| {
            let (line, object) = (None, None);
            TestError::File(Problem { file: name.into(), line, object, message: format!("cannot be read: {error}") })
        };
        Ok(File { name: name.clone(), text: text.map_err(problem)? })
    };
    names.iter().map(read).collect()
}

/// For people: one line a thing.
pub fn lines(report: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let all = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let listed = |value: &Value| cut(&all(value));
    let mut lines = vec![format!("nothing is applied; if this were: {}", listed(&report["changes"]))];
    match report["pods"].as_array().map(Vec::len) {
        Some(0) | None => lines.push("  rules       no pod's rules would be others".to_owned()),
        Some(_) => lines.push(format!("  rules       would be others for {}", listed(&report["pods"]))),
    }
    let flows = &report["flows"];
    if flows.is_object() {
        let (looked, refused, let_in) = (&flows["lookedAt"], &flows["wouldBeRefused"], &flows["wouldBeLetIn"]);
        lines.push(format!("  flows       {looked} looked at: {refused} would be refused, {let_in} let in"));
        for (field, would) in [("refused", "refused"), ("letIn", "let in")] {
            lines.extend(flows[field].as_array().into_iter().flatten().map(|flow| flow_line(would, flow)));
        }
    }
    for each in report["between"].as_array().into_iter().flatten() {
        let (from, to, what) = (listed(&each["from"]), listed(&each["to"]), listed(&each["what"]));
        lines.push(format!("  would {}: {from} -> {to}: {what}", text(&each["would"])));
        lines.push(format!("              {}", text(&each["by"])));
    }
    for each in report["atHostEndpoints"].as_array().into_iter().flatten() {
        let (from, to, what) = (listed(&each["from"]), listed(&each["to"]), listed(&each["what"]));
        let place = ["interface", "layer", "direction"].map(|field| text(&each[field])).join(" ");
        lines.push(format!("  would {}: {place}: {from} -> {to}: {what}", text(&each["would"])));
        lines.push(format!("              {}", text(&each["by"])));
    }
    lines.extend(rerouted::lines(&report["services"]));
    lines.extend(all(&report["notLookedAt"]).iter().map(|what| format!("  not looked at: {what}")));
    let sum = match report["verdict"].as_str() {
        Some("same") => "no verdict would change",
        Some("differs") if !report["services"].is_null() => "verdicts, or where services are sent, would change",
        Some("differs") => "verdicts would change",
        _ => "whether a verdict would change is not known: there is too much to compare",
    };
    lines.push(sum.to_owned());
    lines.join("\n")
}

fn flow_line(would: &str, flow: &Value) -> String {
    let end = |side: &str| {
        let (pod, address, port) = (&flow[format!("{side}Pod")], &flow[side], &flow[format!("{side}Port")]);
        let address = address.as_str().unwrap_or_default();
        let pod = pod.as_str().map_or_else(String::new, |pod| format!(" ({pod})"));
        if address.contains(':') { format!("[{address}]:{port}{pod}") } else { format!("{address}:{port}{pod}") }
    };
    let word = |field: &str| flow[field].as_str().unwrap_or_default().to_owned();
    let (source, destination) = (end("source"), end("destination"));
    let gate = flow["hostEndpoint"].as_str().map_or_else(String::new, |interface| format!(" at {interface}"));
    format!("    {would}: {} {source} -> {destination}{gate}, {}: {}", word("protocol"), word("state"), word("by"))
}

/// A table's cell does not grow with the cluster.
fn cut(items: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, name: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{ name: {name}, labels: {{ host: {name} }} }}\nspec: {spec}\n"
        )
    }

    /// What a directory answers: interfaces, each with what would become of what comes in there.
    fn asked(directory: &str, file: &str, delete: bool) -> (Vec<String>, Value) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("all.yaml"), directory).expect("written");
        let file = File { name: "file.yaml".to_owned(), text: file.to_owned() };
        let report = of_directory(dir.path(), &[file], delete).expect("an answer");
        let rows = report["atHostEndpoints"].as_array().expect("a list");
        let said = rows.iter().filter(|row| row["direction"] == "ingress" && row["layer"] == "local");
        let said = said.map(|row| format!("{} would {}", row["interface"], row["would"]).replace('"', ""));
        (said.collect::<BTreeSet<_>>().into_iter().collect(), report)
    }

    #[test]
    fn a_directorys_host_endpoints_are_asked_each_at_its_interface_of_its_node() {
        let hosts = [
            object("HostEndpoint", "a", "{ node: n1, interfaceName: eth0 }"),
            object("HostEndpoint", "b", "{ node: n2, interfaceName: eth0 }"),
            object("HostEndpoint", "c", "{ node: n2, expectedIPs: [192.0.2.7] }"),
            object("HostEndpoint", "d", "{ node: n3, interfaceName: '*' }"),
            object(
                "GlobalNetworkPolicy",
                "open",
                "{ selector: has(host), order: 9, types: [Ingress], ingress: [{ action: Allow }] }",
            ),
        ];
        let deny = |selector: &str| {
            object(
                "GlobalNetworkPolicy",
                "deny",
                &format!("{{ selector: {selector}, order: 1, types: [Ingress], ingress: [{{ action: Deny }}] }}"),
            )
        };
        let (said, report) = asked(&hosts.concat(), &deny("host == 'b'"), false);
        assert_eq!(said, ["eth0 of n2 would be refused"], "{report:#}");
        let (said, report) = asked(&hosts.concat(), &deny("has(host)"), false);
        let all =
            ["192.0.2.7 of n2", "eth0 of n1", "eth0 of n2"].map(|interface| format!("{interface} would be refused"));
        assert_eq!(said, all, "{report:#}");
        assert!(report["notLookedAt"].to_string().contains("host endpoints of all their interfaces"));
        // What is there is taken away: a policy, and a host endpoint, whose interface nobody asks about then.
        let (said, _) = asked(&[hosts.concat(), deny("host == 'a'")].concat(), &deny("host == 'a'"), true);
        assert_eq!(said, ["eth0 of n1 would pass"]);
        let (said, _) = asked(&[hosts.concat(), deny("host == 'a'")].concat(), &hosts[0], true);
        assert_eq!(said, ["eth0 of n1 would pass"]);
    }
}
