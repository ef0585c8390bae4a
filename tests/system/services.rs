//! Services for pods, with real sockets: who answers, who is told that nobody is there, and what a change does to those who ask.
//! In: Service and EndpointSlice manifests over running pods. Out: what programs in a pod meet.
//! Invariant: the pods that ask know the service's address alone.
//! Never: waits for a change by time; what `show services` says, or who answers, is the sign.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::Write as _,
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};
use tests::{
    Outcome,
    Probe::{self, Sctp, Tcp, Udp},
    flow::Connection,
    probe::{probe, read_line},
    wait,
};

/// Where the shop is.
pub fn vips() -> [IpAddr; 2] {
    [[10, 96, 0, 10].into(), [0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10].into()]
}

/// The service `x/shop`: TCP 443 and UDP 53, behind which are ports 80.
pub fn service(s: &Story, more: &str) -> Result<()> {
    let [v4, v6] = vips();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: shop, namespace: x, creationTimestamp: '2026-01-01T00:00:00Z' }}\n\
         spec: {{ type: ClusterIP, clusterIP: '{v4}', clusterIPs: ['{v4}', '{v6}'], ipFamilies: [IPv4, IPv6], \
         selector: {{ app: shop }}, ports: [{{ name: web, port: 443, targetPort: 80 }}, \
         {{ name: dns, port: 53, targetPort: 80, protocol: UDP }}]{more} }}\n"
    );
    s.cluster.manifest("shop", &text)
}

/// Its slices: each pod with its conditions.
pub fn slices(s: &Story, pods: &[(&str, &str)]) -> Result<()> {
    let mut endpoints = Vec::new();
    for (pod, conditions) in pods {
        endpoints.extend(
            s.pod(pod)?.addresses().iter().map(|address| (*address, format!("conditions: {{ {conditions} }}"))),
        );
    }
    s.cluster.manifest("shop-slices", &slices_of(&endpoints))
}

/// A slice of each family: addresses, each with what else its endpoint says.
pub fn slices_of(endpoints: &[(IpAddr, String)]) -> String {
    let mut text = String::new();
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let own = endpoints.iter().filter(|(address, _)| address.is_ipv4() == is_v4);
        let told: Vec<_> = own.map(|(address, more)| format!("{{ addresses: ['{address}'], {more} }}")).collect();
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: shop-{}, namespace: x, \
             labels: {{ kubernetes.io/service-name: shop }} }}\naddressType: {family}\nendpoints: [{}]\n\
             ports: [{{ name: web, port: 80 }}, {{ name: dns, port: 80, protocol: UDP }}, \
             {{ name: sig, port: 80, protocol: SCTP }}]\n",
            family.to_lowercase(),
            told.join(", ")
        );
    }
    text
}

pub const READY: &str = "ready: true";
pub const LEAVING: &str = "ready: false, serving: true, terminating: true";

/// Waits until the pod meets this at the shop, at every address.
pub fn expect(s: &Story, pod: &str, what: Probe, wanted: Outcome) -> Result<()> {
    let from = s.pod(pod)?.namespace();
    wait::wait_until(&format!("{what} from {pod}: {wanted}"), wait::PATIENCE, || {
        let met = vips().map(|vip| probe(from, vip, what));
        Ok(met.into_iter().all(|met| met.is_ok_and(|met| met == wanted)))
    })
}

/// Who greets at the shop.
fn who(s: &Story, pod: &str, vip: IpAddr) -> Result<String> {
    s.pod(pod)?.namespace().inside(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(vip, 443), wait::PATIENCE)?;
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        Ok(read_line(&mut stream)?)
    })
}

/// Waits until exactly these greet.
pub fn answered_by(s: &Story, pod: &str, wanted: &[&str]) -> Result<()> {
    wait::wait_until(&format!("{wanted:?} answer {pod}"), wait::PATIENCE, || {
        for vip in vips() {
            let mut seen = BTreeSet::new();
            for _ in 0..40 {
                let Ok(who) = who(s, pod, vip) else { return Ok(false) };
                seen.insert(wanted.iter().position(|name| who.contains(name)));
            }
            if seen.len() != wanted.len() || seen.contains(&None) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

#[test]
fn pods_reach_a_service_by_every_address_and_protocol_and_are_refused_where_nobody_is_behind_it() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        service(s, "")?;
        slices(s, &[])?;
        for what in [Tcp(443), Udp(53)] {
            // pkt_35
            expect(s, "x/a", what, Outcome::Reset)?;
        }
        slices(s, &[("x/b", READY)])?;
        for what in [Tcp(443), Udp(53)] {
            expect(s, "x/a", what, Outcome::Allowed)?;
        }
        answered_by(s, "x/a", &["x/b"])?;
        slices(s, &[("x/b", READY), ("x/c", READY)])?;
        answered_by(s, "x/a", &["x/b", "x/c"])?;
        // One of them is asked by itself, too.
        answered_by(s, "x/b", &["x/b", "x/c"])?;
        shows_what_was_opened(s)?;
        // Policy judges who is behind it.
        s.policy("x/closed", "{ podSelector: { matchLabels: { pod: c } }, ingress: [] }")?;
        slices(s, &[("x/c", READY)])?;
        expect(s, "x/a", Tcp(443), Outcome::Refused)?;
        s.drop_policy("x/closed")?;
        expect(s, "x/a", Tcp(443), Outcome::Allowed)?;
        s.cluster.remove("shop")?;
        wait::wait_until("nobody is at the address any more", wait::PATIENCE, || {
            let from = s.pod("x/a")?.namespace();
            Ok(vips()
                .map(|vip| probe(from, vip, Udp(53)))
                .into_iter()
                .all(|met| met.is_ok_and(|met| met != Outcome::Allowed)))
        })
    })
}

#[test]
fn pkt_59_pods_reach_a_service_by_sctp_and_another_by_the_same_port_of_tcp() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let [v4, v6] = vips();
        // Whoever answers, and whoever asks, looks at the sum.
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: sig, namespace: x }}\n\
             spec: {{ type: ClusterIP, clusterIP: '{v4}', clusterIPs: ['{v4}', '{v6}'], ipFamilies: [IPv4, IPv6], \
             selector: {{ app: sig }}, ports: [{{ name: sig, port: 36412, targetPort: 80, protocol: SCTP }}, \
             {{ name: web, port: 36412, targetPort: 80 }}] }}\n"
        );
        for address in s.pod("x/b")?.addresses() {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            text += &format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: sig-{}, namespace: x, \
                 labels: {{ kubernetes.io/service-name: sig }} }}\naddressType: {family}\n\
                 endpoints: [{{ addresses: ['{address}'], conditions: {{ ready: true }} }}]\n\
                 ports: [{{ name: sig, port: 80, protocol: SCTP }}, {{ name: web, port: 80 }}]\n",
                family.to_lowercase()
            );
        }
        s.cluster.manifest("sig", &text)?;
        for pod in ["x/a", "x/b"] {
            for what in [Sctp(36412), Tcp(36412)] {
                expect(s, pod, what, Outcome::Allowed)?;
            }
        }
        s.policy("x/closed", "{ podSelector: { matchLabels: { pod: b } }, ingress: [{ ports: [{ port: 80 }] }] }")?;
        expect(s, "x/a", Sctp(36412), Outcome::Refused)?;
        expect(s, "x/a", Tcp(36412), Outcome::Allowed)
    })
}

/// What was opened stands at each frontend and at each backend, and of one service alone if it is asked so.
fn shows_what_was_opened(s: &Story) -> Result<()> {
    let rows = |what: &[&str]| -> Result<Vec<Value>> {
        let told = s.node.tortie(&[&["show"], what, &["--output", "json"]].concat())?;
        Ok(serde_json::from_slice(&told.stdout)?)
    };
    let sum = |rows: &[Value], field: &str| rows.iter().filter_map(|row| row[field].as_u64()).sum::<u64>();
    let (frontends, backends) = (rows(&["services"])?, rows(&["backends", "x/shop"])?);
    ensure!(sum(&frontends, "refused") > 0 && sum(&frontends, "opened") > 0, "{frontends:#?}");
    ensure!(sum(&frontends, "opened") == sum(&backends, "opened"), "{frontends:#?} {backends:#?}");
    ensure!(backends.iter().any(|row| row["pod"] == "x/c" && row["state"] == "chosen"), "{backends:#?}");
    let live = Connection::open(s.pod("x/a")?.namespace(), vips()[0], 443)?;
    let active = sum(&rows(&["backends", "x"])?, "active");
    ensure!(active > 0, "{live:?} is not counted");
    let none = s.node.tortie(&["show", "services", "x/none"])?;
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    ensure!(!none.status.success() && said.contains("no service x/none"), "{said}");
    Ok(())
}

#[test]
fn explain_names_the_backends_of_a_service_who_judges_each_and_which_a_flow_has() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        let ask = |more: &[&str]| -> Result<(bool, Value)> {
            let question = ["explain", "--from", "x/a", "--to", "x/shop", "--port", "443", "--output", "json"];
            let told = s.node.tortie(&[&question[..], more].concat())?;
            let said = serde_json::from_slice(&told.stdout);
            Ok((told.status.success(), said.with_context(|| String::from_utf8_lossy(&told.stderr).into_owned())?))
        };
        let refused_for = |why: &str| -> Result<()> {
            let (passes, said) = ask(&[])?;
            let is_so =
                !passes && said["verdict"] == "refused" && said["why"].as_str().is_some_and(|is| is.contains(why));
            ensure!(is_so && said["ALARM"].is_null(), "{why}: {said:#}");
            Ok(())
        };
        service(s, "")?;
        slices(s, &[])?;
        expect(s, "x/a", Tcp(443), Outcome::Reset)?;
        refused_for("no EndpointSlice lists a backend")?;
        slices(s, &[("x/b", "ready: false")])?;
        wait::wait_until("it is listed", wait::PATIENCE, || Ok(ask(&[])?.1["listed"] == 1))?;
        refused_for("1 backends are listed, and none is ready")?;
        slices(s, &[("x/b", READY)])?;
        answered_by(s, "x/a", &["x/b"])?;
        let _live = Connection::open(s.pod("x/a")?.namespace(), vips()[0], 443)?;
        let (passes, said) = ask(&[])?;
        let [backend] = said["backends"].as_array().map_or(&[][..], |all| all) else { panic!("{said:#}") };
        ensure!(passes && backend["pod"] == "x/b" && backend["verdict"] == "allowed", "{said:#}");
        ensure!(said["service"] == "x/shop:web" && said["ALARM"].is_null(), "{said:#}");
        let flow = said["flows"].as_array().and_then(|flows| flows.iter().find(|flow| flow["state"] == "established"));
        let port = flow.map(|flow| flow["sourcePort"].to_string()).with_context(|| said.to_string())?;

        // Another backend comes, of which policy judges otherwise; the flow stays where it is.
        s.policy("x/closed", "{ podSelector: { matchLabels: { pod: c } }, ingress: [] }")?;
        slices(s, &[("x/b", READY), ("x/c", READY)])?;
        wait::wait_until("both are asked about", wait::PATIENCE, || Ok(ask(&[])?.1["chosen"] == 2))?;
        let (passes, said) = ask(&[])?;
        ensure!(!passes && said["verdict"] == "depends on the backend" && said["ALARM"].is_null(), "{said:#}");
        let closed = said["backends"].as_array().and_then(|all| all.iter().find(|one| one["pod"] == "x/c"));
        ensure!(closed.is_some_and(|one| one["policy"] == "NetworkPolicy x/closed"), "{said:#}");
        let (passes, said) = ask(&["--source-port", &port])?;
        ensure!(passes && said["backends"][0]["pod"] == "x/b" && said["flows"][0]["backend"].is_string(), "{said:#}");
        let text = s.node.tortie(&["explain", "--from", "x/a", "--to", "10.96.0.10", "--port", "443"])?;
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        for part in
            ["DEPENDS ON THE BACKEND", "x/shop:web", "(x/b): let in", "(x/c): refused", "NetworkPolicy x/closed"]
        {
            ensure!(text.contains(part), "{part} is missing in:\n{text}");
        }
        Ok(())
    })
}

#[test]
fn a_connection_lives_while_its_backend_is_about_to_go_and_is_reset_once_it_is_gone() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        answered_by(s, "x/a", &["x/b"])?;
        for vip in vips() {
            slices(s, &[("x/b", READY)])?;
            answered_by(s, "x/a", &["x/b"])?;
            let mut live = Connection::open(s.pod("x/a")?.namespace(), vip, 443)?;
            slices(s, &[("x/b", LEAVING), ("x/c", READY)])?;
            answered_by(s, "x/a", &["x/c"])?;
            ensure!(live.answers()?, "its backend is still there");
            // The agent goes and comes back: nothing changes for packets.
            s.node.agent.kill()?;
            ensure!(live.answers()?, "the agent is dead");
            s.node.start()?;
            ensure!(live.answers()?, "the next agent");
            slices(s, &[("x/c", READY)])?;
            wait::wait_until("the connection is reset", wait::PATIENCE, || Ok(live.answers().is_err()))?;
        }
        Ok(())
    })
}

#[test]
fn a_client_keeps_to_one_backend_where_the_service_says_so() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        service(s, ", sessionAffinity: ClientIP")?;
        slices(s, &[("x/b", READY), ("x/c", READY)])?;
        expect(s, "x/a", Tcp(443), Outcome::Allowed)?;
        for vip in vips() {
            let first = who(s, "x/a", vip)?;
            for _ in 0..20 {
                ensure!(who(s, "x/a", vip)? == first, "the client went elsewhere");
            }
        }
        Ok(())
    })
}

#[test]
fn a_rolling_change_under_load_loses_no_request() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        answered_by(s, "x/a", &["x/b"])?;
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let s = &*s;
        thread::scope(|scope| {
            let ask = |vip: IpAddr| -> Result<u64> {
                let from = s.pod("x/a")?.namespace();
                let mut asked = 0;
                while !stop.load(Ordering::Relaxed) {
                    from.inside(|| request(SocketAddr::new(vip, 443)))
                        .with_context(|| format!("request {asked} to {vip}"))?;
                    asked += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(asked)
            };
            let askers = vips().map(|vip| scope.spawn(move || ask(vip)));
            let changed = roll(s, &done);
            stop.store(true, Ordering::Relaxed);
            for asker in askers {
                ensure!(asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))? > 0, "nobody asked");
            }
            changed
        })
    })
}

/// Backends come and go, as a Deployment moves them.
fn roll(s: &Story, done: &AtomicU64) -> Result<()> {
    for (old, new) in [("x/b", "x/c"), ("x/c", "x/b"), ("x/b", "x/c")] {
        slices(s, &[(old, READY), (new, READY)])?;
        answered_by(s, "x/a", &[old, new])?;
        slices(s, &[(old, LEAVING), (new, READY)])?;
        answered_by(s, "x/a", &[new])?;
        // Whoever asked before is done when both askers have asked twice more.
        let before = done.load(Ordering::Relaxed);
        wait::wait_until("requests go on", wait::PATIENCE, || Ok(done.load(Ordering::Relaxed) > before + 8))?;
        slices(s, &[(new, READY)])?;
        answered_by(s, "x/a", &[new])?;
    }
    Ok(())
}

/// Connects, is greeted, and has a word echoed.
pub fn request(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, wait::PATIENCE)?;
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    read_line(&mut stream)?;
    stream.write_all(b"word\n")?;
    ensure!(read_line(&mut stream)? == "word", "another word came back");
    Ok(())
}
