//! Services that do not fit the tables: who is served, who waits and is named, and who is served once there is room.
//! In: nodes with one small table, and services that were there before the first agent. Out: who answers, what `show` says.
//! Invariant: who is served goes on so; what policies ask of a service that waits holds.
//! Never: restarts an agent to recover.

use crate::story::{Story, file_of};
use anyhow::{Context as _, Result, ensure};
use std::{collections::BTreeMap, net::IpAddr};
use tests::{
    Cluster, NodeSpec, Outcome, PodSpec,
    Probe::Tcp,
    flow::Connection,
    probe::probe,
    scrape::Scrape,
    wait::{PATIENCE, wait_until},
};

/// Services with the years they were made in; each is at the address of its place.
const SERVICES: [(&str, u32); 4] = [("default/kubernetes", 2026), ("x/old", 2001), ("x/mid", 2002), ("x/young", 2003)];

fn place(name: &str) -> Result<u8> {
    let place = SERVICES.iter().position(|(service, _)| *service == name).context("a service of this test")?;
    Ok(u8::try_from(place)? + 1)
}

fn vip(name: &str) -> Result<IpAddr> {
    Ok([10, 96, 0, place(name)?].into())
}

fn service(cluster: &Cluster, id: &str) -> Result<()> {
    let (_, year) = SERVICES.iter().find(|(service, _)| *service == id).context("a service of this test")?;
    let (namespace, name) = id.split_once('/').context("NAMESPACE/NAME")?;
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: {namespace}, \
         creationTimestamp: '{year}-01-01T00:00:00Z' }}\nspec: {{ clusterIP: '{}', ports: [{{ port: 80 }}] }}\n",
        vip(id)?
    );
    cluster.manifest(&file_of(id), &text)
}

/// Behind all services is x/b, but behind x/young, where it is x/c.
fn slices(s: &Story) -> Result<()> {
    let mut text = String::new();
    for (id, _) in SERVICES {
        let (namespace, name) = id.split_once('/').context("NAMESPACE/NAME")?;
        let behind = s.pod(if name == "young" { "x/c" } else { "x/b" })?;
        for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
            let address = behind.addresses().iter().find(|address| address.is_ipv4() == is_v4).context("an address")?;
            text += &format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}-{}, namespace: {namespace}, \
                 labels: {{ kubernetes.io/service-name: {name} }} }}\naddressType: {family}\n\
                 endpoints: [{{ addresses: ['{address}'] }}]\nports: [{{ port: 80 }}]\n",
                family.to_lowercase()
            );
        }
    }
    s.cluster.manifest("slices", &text)
}

/// A node on which there is room for three of the four, of which it hears before anything is in force.
fn crowded(map: &str, entries: u32) -> Result<Story> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    let spec = NodeSpec::new(1).argument("--map-entries").argument(&format!("{map}={entries}"));
    let mut node = cluster.node(spec)?;
    cluster.namespace("x", &[])?;
    SERVICES.iter().try_for_each(|(id, _)| service(&cluster, id))?;
    node.start()?;
    let mut s = Story { pods: BTreeMap::new(), node, cluster };
    for pod in ["x/a", "x/b", "x/c"] {
        s.add(&PodSpec::new(pod))?;
    }
    slices(&s)?;
    Ok(s)
}

/// Waits until x/a reaches these services, and no other.
fn reaches(s: &Story, wanted: &[&str]) -> Result<()> {
    let from = s.pod("x/a")?.namespace();
    wait_until(&format!("x/a reaches {wanted:?} alone"), PATIENCE, || {
        for (id, _) in SERVICES {
            let is_reached = probe(from, vip(id)?, Tcp(80))? == Outcome::Allowed;
            if is_reached != wanted.contains(&id) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .with_context(|| s.log())
}

fn not_in_force(s: &Story) -> Result<Vec<String>> {
    serde_json::from_value(s.node.show("status")?["notInForce"].clone()).context("reading notInForce")
}

/// Waits until exactly this one waits for room, by its row, by the status and by the metrics.
fn named(s: &Story, wanted: Option<&str>, map: &str) -> Result<()> {
    wait_until(&format!("{wanted:?} is named"), PATIENCE, || {
        let told = not_in_force(s)?;
        let rows = s.node.show("services")?;
        let rows = rows.as_array().context("services are a list")?;
        let waiting = rows.iter().filter(|row| row["remarks"].to_string().contains("for want of room"));
        let waiting: Vec<_> = waiting.filter_map(|row| row["service"].as_str()).collect();
        let counted = Scrape::of(s.node.namespace(), ([127, 0, 0, 1], 9091).into())?
            .value("tortie_service_remarks{about=\"room\"}")?;
        let is_told = wanted.is_none_or(|name| {
            told.iter().any(|line| line.contains(name) && line.contains(&format!("mapEntries {map}")))
        });
        let count = usize::from(wanted.is_some());
        Ok(is_told
            && told.len() == count
            && counted == f64::from(u8::from(wanted.is_some()))
            && waiting == Vec::from_iter(wanted))
    })
    .with_context(|| format!("{:?}\n{}", not_in_force(s), s.log()))
}

#[test]
fn of_services_that_do_not_fit_at_a_first_start_the_oldest_are_served_and_the_rest_once_there_is_room() -> Result<()> {
    for (map, entries) in [("SERVICES", 3), ("FRONTENDS", 4)] {
        let s = crowded(map, entries)?;
        reaches(&s, &["default/kubernetes", "x/old", "x/mid"]).with_context(|| format!("with a small {map}"))?;
        named(&s, Some("x/young"), map)?;
        // What a policy asks of it holds: x/a may ask its backend, and nobody else.
        s.cluster.manifest(
            "p",
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: { name: p, namespace: x }\nspec: \
             { selector: pod == 'a', types: [Egress], egress: [{ action: Allow, destination: { services: { name: young, namespace: x } } }] }\n",
        )?;
        s.expect(Tcp(80), "x/b x/c\n x/a X .")?;
        s.cluster.remove("p")?;
        s.cluster.remove(&file_of("x/mid"))?;
        reaches(&s, &["default/kubernetes", "x/old", "x/young"])?;
        named(&s, None, map)?;
    }
    Ok(())
}

#[test]
fn a_restart_takes_a_service_from_nobody_for_one_that_is_older() -> Result<()> {
    let mut s = crowded("SERVICES", 3)?;
    s.cluster.remove(&file_of("x/mid"))?;
    let served = ["default/kubernetes", "x/old", "x/young"];
    reaches(&s, &served)?;
    let mut kept = Connection::open(s.pod("x/a")?.namespace(), vip("x/young")?, 80)?;
    ensure!(kept.answers()?);
    // While it runs, and over a restart.
    service(&s.cluster, "x/mid")?;
    named(&s, Some("x/mid"), "SERVICES")?;
    s.node.restart()?;
    reaches(&s, &served)?;
    named(&s, Some("x/mid"), "SERVICES")?;
    ensure!(kept.answers()?, "a connection through the younger one");
    s.cluster.remove(&file_of("x/young"))?;
    reaches(&s, &["default/kubernetes", "x/old", "x/mid"])?;
    named(&s, None, "SERVICES")
}
