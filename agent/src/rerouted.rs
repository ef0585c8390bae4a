//! `policy test`, services: where packets to services would be sent otherwise, and which flows would end.
//! In: what is desired now and what would be, tracked flows. Out: frontends that differ, and a count.
//! Invariant: every frontend that is served otherwise is counted, those of which only the rest differs included.
//! Never: says what policy makes of the other backends; that stands beside it.

use calc::Desired;
use dataplane::TrackedFlow;
use model::ServicePortId;
use serde_json::{Value, json};
use service::{Backend, Balance, Frontend};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Frontends that are listed.
const LISTED: usize = 256;
/// Backends of each that are named.
const NAMED: usize = 8;

/// `null` where no service is served otherwise.
pub fn rerouted(now: &Desired, then: &Desired, flows: &[TrackedFlow]) -> Value {
    let all: BTreeSet<&Frontend> = now.services.keys().chain(then.services.keys()).collect();
    let pairs = all.into_iter().map(|frontend| (frontend, now.services.get(frontend), then.services.get(frontend)));
    let differing: Vec<_> = pairs.filter(|(_, now, then)| now != then).collect();
    if differing.is_empty() {
        return Value::Null;
    }
    let row = |(frontend, now, then): &(&Frontend, Option<&Arc<Balance>>, Option<&Arc<Balance>>)| {
        let of = then.or(*now).map(|balance| balance.of.to_string());
        json!({ "frontend": frontend.to_string(), "service": of, "now": sent(*now), "then": sent(*then) })
    };
    json!({
        "changed": differing.len(),
        "frontends": differing.iter().take(LISTED).map(row).collect::<Vec<_>>(),
        "flowsEnded": ended(&now.services, &then.services, flows),
    })
}

/// Where new packets go.
fn sent(balance: Option<&Arc<Balance>>) -> String {
    let Some(balance) = balance else { return "nobody's address".to_owned() };
    let chosen = &balance.inside.chosen;
    let named: Vec<_> = chosen.iter().take(NAMED).map(ToString::to_string).collect();
    match chosen.len().saturating_sub(NAMED) {
        _ if chosen.is_empty() => "nobody".to_owned(),
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Flows to backends that would not be listed any more.
fn ended(
    now: &BTreeMap<Frontend, Arc<Balance>>,
    then: &BTreeMap<Frontend, Arc<Balance>>,
    flows: &[TrackedFlow],
) -> usize {
    let listed: BTreeSet<(&ServicePortId, Backend)> = then
        .values()
        .flat_map(|balance| balance.backends().map(move |side| (balance, side)))
        .flat_map(|(balance, side)| side.listed.iter().map(move |backend| (&balance.of, *backend)))
        .collect();
    let ends = |flow: &&TrackedFlow| {
        let backend = Backend { address: flow.flow.destination, port: flow.destination_port };
        let of = flow.through.and_then(|through| now.get(&through)).map(|balance| &balance.of);
        !flow.is_over && flow.gate.is_none() && of.is_some_and(|of| !listed.contains(&(of, backend)))
    };
    flows.iter().filter(ends).count()
}

/// For people.
pub fn lines(report: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let frontends = report["frontends"].as_array().map_or(&[][..], |all| all);
    let line = |row: &Value| {
        let [of, at, now, then] = ["service", "frontend", "now", "then"].map(|field| text(&row[field]));
        if now == then {
            format!("  services    {of} at {at}: goes to {now} as before, and is otherwise another")
        } else {
            format!("  services    {of} at {at}: to {then}; now to {now}")
        }
    };
    let mut lines: Vec<String> = frontends.iter().map(line).collect();
    if let Some(changed) = report["changed"].as_u64().and_then(|all| all.checked_sub(frontends.len() as u64)) {
        lines.extend((changed > 0).then(|| format!("  services    and {changed} more frontends")));
    }
    if let Some(ended) = report["flowsEnded"].as_u64().filter(|ended| *ended > 0) {
        lines.push(format!("  services    {ended} flows would end, for their backends would be gone"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use calc::Live;
    use model::Update;

    fn desired(manifests: &[&str]) -> Desired {
        let mut live = Live::new("n1".into(), false);
        for text in manifests {
            for object in datastore::snapshot::file("f".as_ref(), text).expect("it can be read") {
                live.apply(Update::Set(object));
            }
        }
        live.apply(Update::InSync);
        live.desired().expect("in sync").clone()
    }

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: web, namespace: shop }\n\
                           spec: { clusterIP: 10.96.0.7, ports: [{ port: 80 }] }\n";

    fn slice(address: &str) -> String {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: web-1, namespace: shop, labels: \
             {{ kubernetes.io/service-name: web }} }}\naddressType: IPv4\nendpoints: [{{ addresses: [{address}] }}]\n\
             ports: [{{ port: 8080 }}]\n"
        )
    }

    #[test]
    fn frontends_that_would_be_served_otherwise_are_named_with_where_they_go() {
        let (none, one, other) =
            (desired(&[]), desired(&[SERVICE, &slice("10.65.0.2")]), desired(&[SERVICE, &slice("10.65.0.3")]));
        assert_eq!(rerouted(&one, &one.clone(), &[]), Value::Null);
        let said = lines(&rerouted(&one, &other, &[]));
        assert_eq!(said, ["  services    shop/web at 10.96.0.7:80/TCP: to 10.65.0.3:8080; now to 10.65.0.2:8080"]);
        let said = lines(&rerouted(&one, &none, &[]));
        assert_eq!(said, ["  services    shop/web at 10.96.0.7:80/TCP: to nobody's address; now to 10.65.0.2:8080"]);
        let empty = desired(&[SERVICE]);
        assert_eq!(rerouted(&none, &empty, &[])["frontends"][0]["then"], "nobody");
        let kept = desired(&[&SERVICE.replace("ports:", "sessionAffinity: ClientIP, ports:"), &slice("10.65.0.2")]);
        assert!(lines(&rerouted(&one, &kept, &[]))[0].ends_with("as before, and is otherwise another"));
    }
}
