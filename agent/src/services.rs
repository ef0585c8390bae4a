//! `tortie show services`: a row a frontend, one for each service that has none, and host ports. `show backends`: a row a backend.
//! In: the World, what is desired of it, and what the kernel counted. Out: JSON rows, by service, a page at a time.
//! Invariant: every service that is asked for is in a row; a remark stands in the first row of its service; a page fits a message.
//! Never: lists flows for more than one page.

use crate::{announce::Announcer, kernel::Kernel, owner::Agent, wanted};
use calc::{Live, World};
use dataplane::{ServiceCounts, StoreError, TrackedFlow};
use model::{Cidr, Service, ServiceId, ServicePortId, TrafficPolicy};
use serde_json::{Value, json};
use service::{About, Backend, Backends, Balance, Frontend, Kind, Remark};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Rows after which a page ends with its service.
const PAGE: usize = 2000;
/// Backends that a frontend's row names; `show backends` names all.
const NAMED: usize = 32;

/// Which services, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// A namespace, or `namespace/name`; `None`: all.
    pub of: Option<&'a str>,
    /// The service after which the page begins.
    pub after: Option<&'a str>,
    /// A row for each backend.
    pub backends: bool,
}

/// No page.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// There is none of this name.
    #[error("there is no service {0}; `tortie show services` has their names")]
    Unknown(String),
    /// The flows could not be read.
    #[error(transparent)]
    Flows(#[from] StoreError),
}

/// What the kernel says of services.
struct Counted<'a> {
    of: &'a dyn Fn(&ServicePortId) -> ServiceCounts,
    /// Flows that are there; `None`: they were not listed.
    active: Option<BTreeMap<(Frontend, Backend), u64>>,
    /// Who announces addresses, where there is an uplink.
    announcer: Option<&'a Announcer>,
    /// A kube-proxy serves, but for what it cannot.
    by_host: bool,
}

/// The next page: `rows`, and in `next` the service after which there is more.
pub fn page<K: Kernel>(agent: &mut Agent<K>, asked: &Asked<'_>) -> Result<Value, ServicesError> {
    let page = selected(&mut agent.world, asked)?;
    let is_whole = asked.after.is_none() && !page.more;
    let active = if is_whole { Some(active(&agent.kernel.tracked()?)) } else { None };
    let kernel = &agent.kernel;
    let announcer = agent.announcer.as_ref();
    let by_host = agent.node.proxy.is_by_host();
    let counted = Counted { of: &|port| kernel.counts_of(port), active, announcer, by_host };
    let rows = if asked.backends {
        backends(&agent.world, &page, &counted)
    } else {
        rows(&agent.world, &page, &counted, agent.service_remarks())
    };
    let next = page.services.keys().next_back().filter(|_| page.more).map(ToString::to_string);
    Ok(json!({ "rows": rows, "next": next }))
}

/// Tracked flows through services.
fn active(flows: &[TrackedFlow]) -> BTreeMap<(Frontend, Backend), u64> {
    let mut active = BTreeMap::new();
    for tracked in flows.iter().filter(|tracked| tracked.gate.is_none() && !tracked.is_over) {
        let Some(through) = tracked.through else { continue };
        let backend = Backend { address: tracked.flow.destination, port: tracked.destination_port };
        *active.entry((through, backend)).or_default() += 1;
    }
    active
}

/// Frontends of a service, in order of their kinds.
type Frontends = Vec<(Frontend, Arc<Balance>)>;

/// What a page shows.
struct Page {
    services: BTreeMap<ServiceId, Frontends>,
    /// Host ports and floating addresses of this node's pods: of the last page.
    host_ports: Frontends,
    /// There are more.
    more: bool,
}

/// What is asked for and comes next.
fn selected(world: &mut Live, asked: &Asked<'_>) -> Result<Page, ServicesError> {
    let id = |(namespace, name): (&str, &str)| ServiceId { namespace: namespace.into(), name: name.to_owned() };
    let after = asked.after.and_then(|text| text.split_once('/')).map(id);
    let one = asked.of.and_then(|of| of.split_once('/')).map(id);
    let is_asked = |own: &ServiceId| match (&one, asked.of) {
        (Some(one), _) => own == one,
        (None, Some(namespace)) => own.namespace == namespace.into(),
        (None, None) => true,
    };
    let mut frontends: BTreeMap<ServiceId, Frontends> = BTreeMap::new();
    let mut host_ports = Frontends::new();
    for (frontend, balance) in world.desired().into_iter().flat_map(|desired| &desired.services) {
        if !is_asked(&balance.of.service) {
            continue;
        }
        if balance.kind.is_pods() {
            host_ports.push((*frontend, Arc::clone(balance)));
        } else {
            frontends.entry(balance.of.service.clone()).or_default().push((*frontend, Arc::clone(balance)));
        }
    }
    let mut left = world.services().map(|service| &service.id).filter(|own| is_asked(own)).peekable();
    if let (None, Some(of), true) = (left.peek(), asked.of, host_ports.is_empty()) {
        return Err(ServicesError::Unknown(of.to_owned()));
    }
    let mut left = left.filter(|own| after.as_ref().is_none_or(|after| *own > after)).peekable();
    let (mut page, mut rows) = (BTreeMap::new(), 0);
    while let Some(id) = left.next_if(|_| rows < PAGE) {
        let mut own = frontends.remove(id).unwrap_or_default();
        own.sort_by_key(|(frontend, balance)| (balance.kind, *frontend));
        // A row of each backend is as short as one of each frontend is with its few.
        rows += own.iter().map(|(_, balance)| 1 + balance.inside.listed.len().div_ceil(NAMED)).sum::<usize>().max(1);
        page.insert(id.clone(), own);
    }
    let more = left.peek().is_some();
    host_ports.retain(|_| !more);
    host_ports.sort_by(|(at, balance), (other, others)| (&balance.of, at).cmp(&(&others.of, other)));
    Ok(Page { services: page, host_ports, more })
}

fn rows(
    world: &Live,
    Page { services, host_ports, .. }: &Page,
    counted: &Counted<'_>,
    mut remarks: BTreeMap<ServiceId, Vec<Remark>>,
) -> Vec<Value> {
    for (id, remark) in strays(world) {
        remarks.entry(id).or_default().push(remark);
    }
    let pools = wanted::pools(world);
    let mut rows = Vec::new();
    for service in world.services().filter(|service| services.contains_key(&service.id)) {
        let first = rows.len();
        let own = services.get(&service.id).into_iter().flatten();
        let counts = counts_of(own.clone(), counted);
        for (frontend, balance) in own {
            let mut row = row(frontend, balance);
            row["policy"] = policy(service, balance);
            count(&mut row, (frontend, balance), &counts, counted);
            if counted.by_host {
                row["by"] = json!(if balance.by_host { "kube-proxy" } else { "kube-proxy, for pods tortie" });
            }
            let of_pool = pools.iter().any(|pool| pool.contains(frontend.address));
            if let Some(announcer) = counted.announcer.filter(|_| of_pool && balance.kind == Kind::LoadBalancer) {
                row["announced"] = json!(announced(announcer, frontend));
            }
            rows.push(row);
        }
        if rows.len() == first {
            rows.push(json!({ "service": service.id.to_string(), "type": service.kind.to_string() }));
        }
        let said = remarks.remove(&service.id).unwrap_or_default();
        let mut said: Vec<_> = said.into_iter().map(|remark| remark.text).collect();
        if service.unproxied {
            said.push("is left to another service proxy, as its labels say".to_owned());
        }
        if !said.is_empty() {
            rows[first]["remarks"] = json!(said);
        }
    }
    let counts = counts_of(host_ports.iter(), counted);
    for (frontend, balance) in host_ports {
        let mut row = row(frontend, balance);
        count(&mut row, (frontend, balance), &counts, counted);
        rows.push(row);
    }
    rows
}

/// What was counted at the service ports of these frontends.
fn counts_of<'a>(
    own: impl Iterator<Item = &'a (Frontend, Arc<Balance>)>,
    counted: &Counted<'_>,
) -> BTreeMap<&'a ServicePortId, ServiceCounts> {
    let ports: BTreeSet<&ServicePortId> = own.map(|(_, balance)| &balance.of).collect();
    ports.into_iter().map(|port| (port, (counted.of)(port))).collect()
}

/// What the kernel says of a frontend.
fn count(
    row: &mut Value,
    (frontend, balance): (&Frontend, &Balance),
    counts: &BTreeMap<&ServicePortId, ServiceCounts>,
    counted: &Counted<'_>,
) {
    match counts.get(&balance.of).and_then(|of| of.frontends.get(frontend)) {
        Some((opened, refused)) => (row["opened"], row["refused"]) = (json!(opened), json!(refused)),
        // It came too late for the tables: `show status` says which.
        None => row["inForce"] = json!(false),
    }
    if let Some(active) = &counted.active {
        let own = active.iter().filter(|((through, _), _)| is_through(frontend, through));
        row["active"] = json!(own.map(|(_, flows)| flows).sum::<u64>());
    }
}

/// Whether a flow that was opened there came through this frontend.
fn is_through(frontend: &Frontend, through: &Frontend) -> bool {
    frontend == through || *frontend == Frontend::floating(through.address)
}

/// Every listed backend of every service port.
fn backends(world: &Live, page: &Page, counted: &Counted<'_>) -> Vec<Value> {
    let mut found: BTreeMap<(&ServicePortId, Backend), bool> = BTreeMap::new();
    let mut through: BTreeMap<&ServicePortId, BTreeSet<Frontend>> = BTreeMap::new();
    let mut inside: BTreeSet<(&ServicePortId, Backend)> = BTreeSet::new();
    for (frontend, balance) in page.services.values().flatten().chain(&page.host_ports) {
        through.entry(&balance.of).or_default().insert(*frontend);
        inside.extend(balance.inside.chosen.iter().map(|backend| (&balance.of, *backend)));
        for side in balance.backends() {
            for (backends, is_chosen) in [(&side.listed, false), (&side.chosen, true)] {
                for backend in backends.iter() {
                    *found.entry((&balance.of, *backend)).or_default() |= is_chosen;
                }
            }
        }
    }
    let pods = world.pods_by_address();
    let counts: BTreeMap<_, _> = through.keys().map(|port| (*port, (counted.of)(port))).collect();
    let row = |((of, backend), is_chosen): ((&ServicePortId, Backend), bool)| {
        let state = match (inside.contains(&(of, backend)), is_chosen) {
            (true, _) => "chosen",
            (false, true) => "chosen from outside",
            (false, false) => "listed",
        };
        let mut row = json!({
            "service": of.to_string(),
            "backend": backend.to_string(),
            "pod": pods.get(&backend.address).map(ToString::to_string),
            "state": state,
        });
        if let Some(opened) = counts.get(of).and_then(|of| of.backends.get(&backend)) {
            row["opened"] = json!(opened);
        }
        if let Some(active) = &counted.active {
            let is_own = |at: &&Frontend| through.get(of).into_iter().flatten().any(|own| is_through(own, at));
            let is_it = |to: &Backend| *to == backend || backend.port == 0;
            let own = active.iter().filter(|((at, to), _)| is_it(to) && is_own(&at));
            row["active"] = json!(own.map(|(_, flows)| flows).sum::<u64>());
        }
        row
    };
    found.into_iter().map(row).collect()
}

/// What may be meant: endpoints that are nobody's here.
fn strays(world: &World) -> impl Iterator<Item = (ServiceId, Remark)> {
    World::stray_endpoints(world).into_iter().filter_map(|(id, strays)| {
        let first = strays.first()?;
        let more = if strays.len() > 1 { format!(" and {} more", strays.len() - 1) } else { String::new() };
        let said = format!("{first}{more} of its endpoints: in no IP pool, and of no node or pod");
        Some((id, Remark::new(About::Strays, said)))
    })
}

fn row(frontend: &Frontend, balance: &Balance) -> Value {
    let Balance { inside, outside, .. } = balance;
    let mut row = json!({
        "service": balance.of.to_string(),
        "type": balance.kind.to_string(),
        "frontend": frontend.to_string(),
        "chosen": inside.chosen.len(),
        "listed": inside.listed.len(),
        "backends": list(&inside.chosen),
    });
    if inside.chosen.is_empty() {
        row["whenNone"] = json!(when_none(inside));
    }
    if let Some(outside) = outside.as_ref().filter(|outside| *outside != inside) {
        row["fromOutside"] = if outside.chosen.is_empty() { json!(when_none(outside)) } else { list(&outside.chosen) };
    }
    row
}

/// Where an address of a pool for load balancers is announced.
fn announced(announcer: &Announcer, frontend: &Frontend) -> String {
    let uplink = &announcer.uplink;
    match announcer.holder(frontend.address) {
        Some(holder) if holder.here => format!("by {}, at {uplink} of this node", holder.node),
        Some(holder) => format!("by {}", holder.node),
        None if announcer.knows(frontend.address) => "by nobody".to_owned(),
        None => format!("not here: in no network of {uplink}"),
    }
}

fn list(backends: &[Backend]) -> Value {
    let mut named: Vec<_> = backends.iter().take(NAMED).map(ToString::to_string).collect();
    if backends.len() > NAMED {
        named.push(format!("and {} more, which `show backends` names", backends.len() - NAMED));
    }
    json!(named)
}

/// What becomes of packets where nobody is chosen.
fn when_none(backends: &Backends) -> &'static str {
    if backends.elsewhere { "dropped: backends are on other nodes" } else { "refused: no backend" }
}

/// Source ranges in a line; of many, the first.
pub fn ranges(sources: &[Cidr]) -> String {
    let mut named: Vec<_> = sources.iter().take(NAMED).map(ToString::to_string).collect();
    if sources.len() > NAMED {
        named.push(format!("and {} more", sources.len() - NAMED));
    }
    named.join(" ")
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
    said.extend(balance.sources.as_ref().map(|sources| format!("from {}", ranges(sources))));
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
        EndpointSlice, EndpointSliceId, IpPool, Protocol, Resource, ServiceKind, ServicePort, SliceEndpoint, SlicePort,
        Update,
    };

    fn service(name: &str, kind: ServiceKind, cluster_ip: u8) -> Service {
        let has_addresses = kind != ServiceKind::Headless;
        let port = ServicePort { name: "web".into(), protocol: Protocol::TCP, port: 80, node_port: None };
        Service {
            cluster_ips: has_addresses.then(|| [10, 96, 0, cluster_ip].into()).into_iter().collect(),
            external_ips: has_addresses.then(|| [203, 0, 113, 9].into()).into_iter().collect(),
            ports: [port].into(),
            affinity_s: Some(60),
            external: TrafficPolicy::Local,
            ..Service::bare(ServiceId { namespace: "shop".into(), name: name.into() }, kind)
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

    /// A page, and whether there is more.
    fn shown(world: &mut Live, asked: &Asked<'_>) -> (Vec<Value>, bool) {
        let page = selected(world, asked).expect("a page");
        let port = |id: &ServicePortId| id.service.name == "web";
        let frontend = Frontend { address: [10, 96, 0, 7].into(), protocol: Protocol::TCP, port: 80 };
        let [first, second] = [[10, 65, 0, 2], [192, 0, 2, 7]].map(|at| Backend { address: at.into(), port: 8080 });
        let counts =
            ServiceCounts { frontends: [(frontend, (9, 1))].into(), backends: [(first, 5), (second, 4)].into() };
        let of = |id: &ServicePortId| if port(id) { counts.clone() } else { ServiceCounts::default() };
        let counted =
            Counted { of: &of, active: Some([((frontend, first), 3)].into()), announcer: None, by_host: false };
        let remarks = world.service_remarks().into_iter().map(|(id, said)| (id.clone(), said)).collect();
        let rows =
            if asked.backends { backends(world, &page, &counted) } else { rows(world, &page, &counted, remarks) };
        (rows, page.more)
    }

    #[test]
    fn every_service_has_a_row_and_remarks_stand_in_its_first() {
        let mut world = Live::new("n1".into(), false);
        let pool = IpPool::of_pods("pool", "10.65.0.0/16".parse().expect("a network"), 26);
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
        let rows = shown(&mut world, &Asked::default()).0;
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
        assert_eq!([&web["opened"], &web["refused"], &web["active"]], [9, 1, 3].map(|n| json!(n)).each_ref());
        assert_eq!(
            (&rows[2]["inForce"], &web["inForce"]),
            (&json!(false), &Value::Null),
            "the kernel does not have it"
        );
        let asked = Asked { of: Some("shop/web"), backends: true, ..Asked::default() };
        let line = |row: &Value| ["backend", "state", "opened", "active"].map(|field| row[field].to_string()).join(" ");
        let backends: Vec<_> = shown(&mut world, &asked).0.iter().map(line).collect();
        assert_eq!(backends, [r#""10.65.0.2:8080" "chosen" 5 3"#, r#""192.0.2.7:8080" "chosen" 4 0"#]);
        let none = Asked { of: Some("shop/none"), ..Asked::default() };
        assert!(selected(&mut world, &none).is_err_and(|error| error.to_string().contains("no service shop/none")));
    }

    #[test]
    fn a_page_ends_with_a_service_and_the_next_goes_on_after_it() {
        let mut world = Live::new("n1".into(), false);
        let named = |number: usize| service(&format!("s{number:04}"), ServiceKind::Headless, 0);
        let told = (0..PAGE + 5).map(|number| Resource::Service(named(number).into()));
        for resource in told {
            world.apply(Update::Set(resource));
        }
        world.apply(Update::InSync);
        let (first, more) = shown(&mut world, &Asked::default());
        assert!(first.len() == PAGE && more);
        let last = first[PAGE - 1]["service"].as_str().map(str::to_owned);
        let (second, more) = shown(&mut world, &Asked { after: last.as_deref(), ..Asked::default() });
        assert!(second.len() == 5 && !more && second[0]["service"] == "shop/s2000", "{second:?}");
        let of = |of| shown(&mut world, &Asked { of: Some(of), ..Asked::default() }).0.len();
        assert_eq!(["shop", "shop/s0007"].map(of), [PAGE, 1]);
    }
}
