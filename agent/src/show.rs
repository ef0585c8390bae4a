//! `tortie show` and `tortie explain`: asks the agent and prints its report.
//! In: a report as JSON. Out: a table, JSON or YAML.
//! Invariant: JSON and YAML are the report as it came; only the table is arranged.
//! Never: reads the kernel's tables itself.

use clap::ValueEnum;
use cni::{
    client::{CallError, ask},
    protocol::{Answer, Operation, Query},
};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// The order of columns and lines: what people look for comes first, what is not named here comes last.
const ORDER: &str = "peerAddress peerType grouping cidr ipsTotal ipsInUse ipsFree node version kernel attachment kernelLacks nodeSockets nodeAnswersOutside servicesBy inSync service type frontend by backend chosen listed backends announced whenNone fromOutside opened active refused class ruleSet map pod hostEndpoint interface layer addresses floating inForce ingress egress dropped policy tier ifEnforced newFlows wouldRefuse wouldLetIn now protocol source \
    sourcePort sourcePod destination destinationPort destinationPod masqueradedAs state since info direction judged decides annotations \
    reason used size pressurePercent peak memoryBytes setting notCounted whenFull selectors unsure nodeSelectors nets members endpoints attachments pods namespaces policies services \
    pools rows spans hostAddresses packets bytes idleSeconds egressBy ingressBy mac mtu notInForce \
    driftRepaired remarks problems damagedRecords";
/// Numbers of the programs' own, for who debugs them, and one that a row says in words: in JSON and YAML only.
const INTERNAL: [&str; 7] = ["slot", "hit", "rule", "ifindex", "revision", "ingressRuleSet", "egressRuleSet"];
/// Items of a list that are printed in a table; a class may have thousands of members.
const SHOWN: usize = 8;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
    /// For both.
    Yaml,
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// Nobody listens.
    #[error(
        "no agent answers on {socket}: {source}; start `tortie run`, or name its socket by --socket or TORTIE_SOCKET"
    )]
    NoAgent {
        /// The socket.
        socket: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The agent was reached.
    #[error(transparent)]
    Call(CallError),
}

/// Asks the agent a question.
pub fn report(socket: &Path, question: Query) -> Result<Value, ShowError> {
    match ask(socket, PATIENCE, Operation::Query(question)) {
        Ok(Answer::Report { report }) => Ok(report),
        Ok(Answer::Done | Answer::Prepared(_)) => {
            Err(ShowError::Call(CallError::Unexpected { socket: socket.to_owned() }))
        }
        // Its own sentence is for who writes a CNI configuration.
        Err(CallError::Unreachable { socket, source }) => Err(ShowError::NoAgent { socket, source }),
        Err(error) => Err(ShowError::Call(error)),
    }
}

/// Services or their backends, page after page: all of them are more than a message holds.
pub fn services(socket: &Path, of: Option<&str>, backends: bool) -> Result<Value, ShowError> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let mut page = report(socket, Query::Services { of: of.map(str::to_owned), after, backends })?;
        if let Value::Array(next) = page["rows"].take() {
            rows.extend(next);
        }
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            return Ok(Value::Array(rows));
        }
    }
}

/// A report in the wanted form; `arrange` makes the one for people.
pub fn print(report: &Value, output: Output, arrange: impl Fn(&Value) -> String) -> String {
    match output {
        Output::Table => arrange(report),
        Output::Json => format!("{report:#}"),
        Output::Yaml => serde_saphyr::to_string(report).unwrap_or_else(|_| report.to_string()),
    }
}

/// Rows under their fields' names, or a single object's fields below each other.
pub fn table(report: &Value) -> String {
    match report {
        Value::Array(rows) if rows.is_empty() => "nothing to show".to_owned(),
        Value::Array(rows) => rows_table(rows),
        Value::Object(fields) => fields_table(fields),
        other => text(other),
    }
}

/// What is set for a node: its BGP sessions by family, then parameters.
pub fn node(report: &Value) -> String {
    let bgp = &report["bgp"];
    let said = |field: &str| bgp[field].as_str().unwrap_or_default().to_owned();
    let mut parts = Vec::new();
    if bgp["bgp"] == "on" {
        let state = if bgp["running"] == true { "runs" } else { "does not run" };
        parts.push(format!("BGP      BIRD {} {state}, started again {} times", said("version"), bgp["restarts"]));
        parts.extend(bgp["trouble"].as_str().map(|why| format!("trouble  {why}")));
        parts.extend(list(bgp, "problems").filter_map(Value::as_str).map(|what| format!("problem  {what}")));
        for family in ["IPv4", "IPv6"] {
            let of = list(bgp, "sessions").filter(|session| session["family"] == family).cloned();
            let mut rows: Vec<Value> = of.collect();
            rows.iter_mut().filter_map(Value::as_object_mut).for_each(|row| drop(row.remove("family")));
            let shown = if rows.is_empty() { "no sessions".to_owned() } else { rows_table(&rows) };
            parts.push(format!("\n{family} BGP status\n{shown}"));
        }
    } else {
        parts.push("BGP      off".to_owned());
    }
    parts.push(format!("\nFelixConfiguration\n{}", table(&report["parameters"])));
    parts.join("\n")
}

fn rows_table(rows: &[Value]) -> String {
    let mut names: Vec<&String> = Vec::new();
    for name in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !names.contains(&name) && !INTERNAL.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| place(name));
    let mut table = plain();
    table.set_header(names.iter().map(|name| words(name, '-').to_uppercase()));
    for row in rows {
        table.add_row(names.iter().map(|name| cell(row.get(name.as_str()))));
    }
    trimmed(&table)
}

fn fields_table(fields: &Map<String, Value>) -> String {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| place(name));
    let mut table = plain();
    for (name, value) in fields {
        table.add_row([words(name, ' '), cell(Some(value))]);
    }
    trimmed(&table)
}

fn place(name: &str) -> (usize, &str) {
    (ORDER.split(' ').position(|known| known == name).unwrap_or(usize::MAX), name)
}

/// `idleSeconds` as `idle-seconds`.
fn words(name: &str, between: char) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            words.push(between);
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// Nothing is a dash, so that columns stay columns for who reads them with awk.
fn cell(value: Option<&Value>) -> String {
    let text = value.map_or_else(String::new, text);
    if text.is_empty() { "-".to_owned() } else { text }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Without the cells' padding at the ends of lines.
fn trimmed(table: &Table) -> String {
    let lines: Vec<_> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().any(|item| item.to_string().len() > 40) => {
            items.iter().map(text).collect::<Vec<_>>().join("\n")
        }
        Value::Array(items) => listed(items),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn listed(items: &[Value]) -> String {
    let shown = items.iter().take(SHOWN).map(text).collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// An explanation as sentences.
pub fn sentences(report: &Value) -> String {
    let field = |path: &str| report.pointer(path).filter(|value| !value.is_null()).map(text);
    let name = |path: &str| field(path).unwrap_or_default();
    let receiver = match (name("/to"), name("/destination")) {
        (to, destination) if to == destination => to,
        (to, destination) => format!("{to} ({destination})"),
    };
    let mut lines = vec![format!(
        "{} ({}) -> {receiver} {} {}: {}",
        report["from"].as_str().map_or_else(|| ["/from/namespace", "/from/name"].map(name).join("/"), str::to_owned),
        name("/source"),
        name("/protocol"),
        name("/port"),
        name("/verdict").to_uppercase()
    )];
    let rows = [
        ("service", "/service"),
        ("remarks", "/remarks"),
        ("direction", "/direction"),
        ("policy", "/policy"),
        ("rule", "/rule"),
        ("annotations", "/annotations"),
        ("why", "/why"),
        ("kernel", "/kernel/outcome"),
        ("  egress", "/kernel/egress"),
        ("  ingress", "/kernel/ingress"),
        ("  gates", "/kernel/gates"),
        ("evaluator egress", "/evaluator/egress"),
        ("evaluator ingress", "/evaluator/ingress"),
        ("evaluator gates", "/evaluator/gates"),
        ("ALARM", "/ALARM"),
    ];
    lines.extend(rows.iter().filter_map(|(label, path)| Some(format!("  {label:<18} {}", field(path)?))));
    lines.extend(isolation(&report["isolation"]));
    lines.extend(list(report, "backends").flat_map(backend));
    lines.extend(
        report["moreBackends"]
            .as_u64()
            .map(|more| format!("  {:<18} and {more} more, which were not asked about", "backend")),
    );
    lines.extend(flows(report));
    lines.join("\n")
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

/// Who isolates, and what the nearest rules ask for.
fn isolation(isolation: &Value) -> Vec<String> {
    if isolation.is_null() {
        return Vec::new();
    }
    let mut lines = vec![format!("  {:<18} {}", "isolated by", text(&isolation["by"]))];
    for near in list(isolation, "nearest") {
        let lacks: Vec<_> = list(near, "lacks").map(|lack| text(&lack["text"])).collect();
        lines.push(format!(
            "  {:<18} {} rule {}: {}",
            "nearest",
            text(&near["policy"]),
            near["rule"],
            lacks.join("; ")
        ));
    }
    if list(isolation, "nearest").next().is_none() {
        lines.push(format!("  {:<18} no rule of them allows anything", "nearest"));
    }
    lines
}

/// A backend of a service, and who judged it.
fn backend(report: &Value) -> Vec<String> {
    let who = report["pod"].as_str().map_or_else(String::new, |pod| format!(" ({pod})"));
    let by = if report["verdict"] == "allowed" { "let in" } else { "refused" };
    let said = format!("{}{who}: {by}, {}", text(&report["backend"]), text(&report["why"]));
    let mut lines = vec![format!("  {:<18} {said}", "backend")];
    lines.extend(isolation(&report["isolation"]));
    lines
}

/// What is known of flows that are there.
fn flows(report: &Value) -> Vec<String> {
    let line = |flow: &Value| {
        let by: Vec<_> = ["egressBy", "ingressBy"].iter().filter_map(|field| flow[*field].as_str()).collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join("; ")) };
        let did = if flow["state"] == "refused" { "refused" } else { "let in" };
        let now = if flow["allowedNow"] == true { "would be let in" } else { "would be refused" };
        let (port, state, generation) = (&flow["sourcePort"], text(&flow["state"]), &flow["generation"]);
        let at = flow["backend"].as_str().map_or_else(String::new, |backend| format!(" at {backend}"));
        format!("  {:<18} from port {port}{at}, {state}: {did}{by}, last by generation {generation}; now {now}", "flow")
    };
    let more = report["moreFlows"].as_u64().map(|more| format!("  {:<18} and {more} more", "flow"));
    list(report, "flows").map(line).chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_printed_under_the_names_of_all_their_fields() {
        let report = json!([{"mtu": 2, "pod": "default/a"}, {"idleSeconds": ["x"], "pod": "default/b", "slot": 7}]);
        let text = table(&report);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let rows = [vec!["POD", "IDLE-SECONDS", "MTU"], vec!["default/a", "-", "2"], vec!["default/b", "x", "-"]];
        assert_eq!(lines, rows, "in their order, without the programs' own numbers");
    }

    #[test]
    fn a_long_list_is_cut_in_a_table_only() {
        let members: Vec<_> = (0..100).map(|n| format!("10.0.0.{n}")).collect();
        let report = json!([{ "class": 1, "members": members }]);
        assert!(table(&report).ends_with("10.0.0.7 and 92 more"), "{}", table(&report));
        assert!(print(&report, Output::Json, table).contains("10.0.0.99"));
    }

    #[test]
    fn an_explanation_says_who_isolates_what_is_lacking_and_what_became_of_flows() {
        let report = json!({
            "from": {"namespace": "x", "name": "b"}, "to": "x/a", "verdict": "refused",
            "isolation": {"direction": "ingress", "by": ["NetworkPolicy x/p"], "nearest": [
                {"policy": "NetworkPolicy x/p", "rule": 2, "lacks": [{"of": "port", "text": "asks for port 443, this is for 80"}]}]},
            "flows": [{"sourcePort": 4711, "state": "established", "generation": 5, "ingressBy": "no ingress policy applies", "allowedNow": false}],
            "moreFlows": 3,
        });
        let said = sentences(&report);
        for line in [
            "  isolated by        NetworkPolicy x/p",
            "  nearest            NetworkPolicy x/p rule 2: asks for port 443, this is for 80",
            "  flow               from port 4711, established: let in (no ingress policy applies), last by generation 5; now would be refused",
            "  flow               and 3 more",
        ] {
            assert!(said.lines().any(|found| found == line), "{line} is missing in:\n{said}");
        }
    }

    #[test]
    fn an_explanation_names_verdict_policy_and_rule_and_shouts_an_alarm() {
        let report = json!({
            "from": {"namespace": "default", "name": "a"}, "source": "10.0.0.1", "to": "default/b",
            "destination": "10.0.0.2", "protocol": "TCP", "port": 80, "verdict": "refused",
            "direction": "ingress", "policy": "NetworkPolicy default/web", "rule": 0, "why": "because",
            "kernel": {"outcome": "dropped: ingress-policy"}, "evaluator": {}, "ALARM": "they disagree"
        });
        let text = sentences(&report);
        for part in ["default/a (10.0.0.1) -> default/b", "REFUSED", "NetworkPolicy default/web", "ALARM"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(!text.contains("evaluator egress"), "what was not judged is not mentioned");
    }
}
