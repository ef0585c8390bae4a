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
use std::{path::Path, time::Duration};

const PATIENCE: Duration = Duration::from_secs(30);
/// Fields by which people find a row: they come first, the others by name.
const LEADING: [&str; 8] =
    ["pod", "interface", "policy", "map", "source", "sourcePort", "destination", "destinationPort"];

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

/// Asks the agent a question.
pub fn report(socket: &Path, question: Query) -> Result<Value, CallError> {
    match ask(socket, PATIENCE, Operation::Query(question))? {
        Answer::Report { report } => Ok(report),
        Answer::Done | Answer::Prepared(_) => Err(CallError::Unexpected { socket: socket.to_owned() }),
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

fn rows_table(rows: &[Value]) -> String {
    let mut names: Vec<&String> = Vec::new();
    for name in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| (LEADING.iter().position(|leading| leading == name).unwrap_or(LEADING.len()), *name));
    let mut table = plain();
    table.set_header(names.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(names.iter().map(|name| row.get(name.as_str()).map_or_else(String::new, text)));
    }
    trimmed(&table)
}

fn fields_table(fields: &Map<String, Value>) -> String {
    let mut table = plain();
    for (name, value) in fields {
        table.add_row([name.clone(), text(value)]);
    }
    trimmed(&table)
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
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// An explanation as sentences.
pub fn sentences(report: &Value) -> String {
    let field = |path: &str| report.pointer(path).filter(|value| !value.is_null()).map(text);
    let name = |path: &str| field(path).unwrap_or_default();
    let mut lines = vec![format!(
        "{} ({}) -> {} ({}) {} {}: {}",
        ["/from/namespace", "/from/name"].map(name).join("/"),
        name("/source"),
        name("/to"),
        name("/destination"),
        name("/protocol"),
        name("/port"),
        name("/verdict").to_uppercase()
    )];
    let rows = [
        ("direction", "/direction"),
        ("policy", "/policy"),
        ("rule", "/rule"),
        ("why", "/why"),
        ("kernel", "/kernel/outcome"),
        ("  egress", "/kernel/egress"),
        ("  ingress", "/kernel/ingress"),
        ("evaluator egress", "/evaluator/egress"),
        ("evaluator ingress", "/evaluator/ingress"),
        ("ALARM", "/ALARM"),
    ];
    lines.extend(rows.iter().filter_map(|(label, path)| Some(format!("  {label:<18} {}", field(path)?))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_printed_under_the_names_of_all_their_fields() {
        let report = json!([{"slot": 2, "pod": "default/a"}, {"drops": ["spoofed"], "pod": "default/b"}]);
        let text = table(&report);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["POD", "DROPS", "SLOT"], vec!["default/a", "2"], vec!["default/b", "spoofed"]]);
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
