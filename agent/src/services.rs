//! `tortie show services`: a row a frontend, and one for each service that has none.
//! In: the World and what is desired of it. Out: JSON rows, by service and frontend.
//! Invariant: every service of the datastore is in a row; a remark stands in the first row of its service.
//! Never: reads the kernel's tables: what the cluster wants is shown, also where no packet has asked for it yet.

use calc::{Live, World};
use model::{Service, ServiceId, TrafficPolicy};
use serde_json::{Value, json};
use service::{Backend, Backends, Balance, Frontend, Kind};
use std::{collections::BTreeMap, sync::Arc};

/// Every service.
pub fn rows(world: &mut Live) -> Value {
    let mut frontends: BTreeMap<ServiceId, Vec<(Frontend, Arc<Balance>)>> = BTreeMap::new();
    for (frontend, balance) in world.desired().into_iter().flat_map(|desired| &desired.services) {
        frontends.entry(balance.of.service.clone()).or_default().push((*frontend, Arc::clone(balance)));
    }
    let mut remarks = remarks(world);
    let mut rows = Vec::new();
    for service in world.services() {
        let first = rows.len();
        match frontends.remove(&service.id) {
            Some(mut own) => {
                own.sort_by_key(|(frontend, balance)| (balance.kind, *frontend));
                rows.extend(own.iter().map(|(frontend, balance)| row(service, frontend, balance)));
            }
            None => rows.push(json!({ "service": service.id.to_string(), "type": service.kind.to_string() })),
        }
        let mut said = remarks.remove(&service.id).unwrap_or_default();
        if service.unproxied {
            said.push("is left to another service proxy, as its labels say".to_owned());
        }
        if !said.is_empty() {
            rows[first]["remarks"] = json!(said);
        }
    }
    Value::Array(rows)
}

/// What writers should know, and what may be meant: endpoints that are nobody's here.
fn remarks(world: &Live) -> BTreeMap<ServiceId, Vec<String>> {
    let mut remarks: BTreeMap<_, _> =
        world.service_remarks().into_iter().map(|(id, said)| (id.clone(), said)).collect();
    for (id, strays) in World::stray_endpoints(world) {
        let Some(first) = strays.first() else { continue };
        let more = if strays.len() > 1 { format!(" and {} more", strays.len() - 1) } else { String::new() };
        let said = format!("{first}{more} of its endpoints: in no IP pool, and of no node or pod");
        remarks.entry(id).or_default().push(said);
    }
    remarks
}

fn row(service: &Service, frontend: &Frontend, balance: &Balance) -> Value {
    let Balance { inside, outside, .. } = balance;
    let mut row = json!({
        "service": balance.of.to_string(),
        "type": balance.kind.to_string(),
        "frontend": frontend.to_string(),
        "chosen": inside.chosen.len(),
        "listed": inside.listed.len(),
        "backends": list(&inside.chosen),
        "policy": policy(service, balance),
    });
    if inside.chosen.is_empty() {
        row["whenNone"] = json!(when_none(inside));
    }
    if let Some(outside) = outside.as_ref().filter(|outside| *outside != inside) {
        row["fromOutside"] = if outside.chosen.is_empty() { json!(when_none(outside)) } else { list(&outside.chosen) };
    }
    row
}

fn list(backends: &[Backend]) -> Value {
    json!(backends.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// What becomes of packets where nobody is chosen.
fn when_none(backends: &Backends) -> &'static str {
    if backends.elsewhere { "dropped: backends are on other nodes" } else { "refused: no backend" }
}

/// The choices of the service's writer that hold at this frontend.
fn policy(service: &Service, balance: &Balance) -> Value {
    let of_clients = if balance.kind == Kind::ClusterIp { service.internal } else { service.external };
    let mut said = Vec::new();
    if of_clients == TrafficPolicy::Local {
        said.push("Local".to_owned());
    }
    said.extend(service.distribution.map(|distribution| distribution.to_string()));
    said.extend(balance.affinity_s.map(|seconds| format!("ClientIP {seconds} s")));
    said.extend(
        balance
            .sources
            .iter()
            .map(|sources| format!("from {}", sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))),
    );
    let balanced = balance.kind == Kind::LoadBalancer;
    said.extend(service.health_check_port.filter(|_| balanced).map(|port| format!("health at {port}")));
    if said.is_empty() {
        said.push("Cluster".to_owned());
    }
    json!(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        Created, EndpointSlice, EndpointSliceId, IpPool, Protocol, Resource, ServiceKind, ServicePort, SliceEndpoint,
        SlicePort, Update,
    };

    fn service(name: &str, kind: ServiceKind, cluster_ip: u8) -> Service {
        let has_addresses = kind != ServiceKind::Headless;
        let port = ServicePort { name: "web".into(), protocol: Protocol::TCP, port: 80, node_port: None };
        Service {
            id: ServiceId { namespace: "shop".into(), name: name.into() },
            created: Created::UNKNOWN,
            kind,
            cluster_ips: has_addresses.then(|| [10, 96, 0, cluster_ip].into()).into_iter().collect(),
            external_ips: has_addresses.then(|| [203, 0, 113, 9].into()).into_iter().collect(),
            load_balancer: vec![],
            source_ranges: vec![],
            ports: [port].into(),
            affinity_s: Some(60),
            internal: TrafficPolicy::Cluster,
            external: TrafficPolicy::Local,
            distribution: None,
            health_check_port: None,
            unproxied: false,
        }
    }

    fn slice(service: &str, addresses: &[[u8; 4]]) -> Resource {
        let endpoint = |address: &[u8; 4]| SliceEndpoint::ready_at((*address).into());
        let slice = EndpointSlice {
            id: EndpointSliceId { namespace: "shop".into(), name: format!("{service}-1") },
            service: Some(ServiceId { namespace: "shop".into(), name: service.into() }),
            endpoints: addresses.iter().map(endpoint).collect(),
            ports: [SlicePort { name: "web".into(), protocol: Protocol::TCP, port: 8080 }].into(),
            unproxied: false,
        };
        Resource::EndpointSlice(slice.into())
    }

    #[test]
    fn every_service_has_a_row_and_remarks_stand_in_its_first() {
        let mut world = Live::new("n1".into(), false);
        let pool = IpPool {
            name: "pool".into(),
            cidr: "10.65.0.0/16".parse().expect("a network"),
            block_size: 26,
            disabled: false,
        };
        let services = [
            service("web", ServiceKind::ClusterIp, 7),
            service("twin", ServiceKind::ClusterIp, 8),
            service("names", ServiceKind::Headless, 0),
            Service { unproxied: true, ..service("other", ServiceKind::ClusterIp, 9) },
        ];
        let told = services.map(|service| Resource::Service(service.into())).into_iter();
        let told = told.chain([Resource::IpPool(pool), slice("web", &[[10, 65, 0, 2], [192, 0, 2, 7]])]);
        for resource in told {
            world.apply(Update::Set(resource));
        }
        world.apply(Update::InSync);
        let rows = rows(&mut world);
        let rows = rows.as_array().expect("rows");
        let line = |row: &Value| {
            let texts =
                ["service", "frontend", "whenNone", "fromOutside"].map(|field| row[field].as_str().unwrap_or("-"));
            format!("{} {} {}", texts.join(" | "), row["policy"], row["remarks"].as_array().map_or(0, Vec::len))
        };
        assert_eq!(
            rows.iter().map(line).collect::<Vec<_>>(),
            [
                "shop/names | - | - | - null 0",
                "shop/other | - | - | - null 1",
                "shop/twin:web | 10.96.0.8:80/TCP | refused: no backend | - [\"ClientIP 60 s\"] 0",
                "shop/twin:web | 203.0.113.9:80/TCP | refused: no backend | - [\"Local\",\"ClientIP 60 s\"] 0",
                "shop/web:web | 10.96.0.7:80/TCP | - | - [\"ClientIP 60 s\"] 2",
            ]
        );
        let web = &rows[4];
        assert_eq!((&web["chosen"], &web["listed"], &web["type"]), (&json!(2), &json!(2), &json!("ClusterIP")));
        assert_eq!(web["backends"], json!(["10.65.0.2:8080", "192.0.2.7:8080"]));
        let said = web["remarks"].to_string();
        assert!(said.contains("203.0.113.9:80/TCP is taken by shop/twin"), "{said}");
        assert!(said.contains("192.0.2.7 of its endpoints: in no IP pool"), "{said}");
    }
}
