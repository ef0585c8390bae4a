//! Services as the running agent knows them, from manifests to `tortie show services`.
//! In: Services and EndpointSlices as people write them, and as they change. Out: rows, one a frontend.
//! Invariant: every row of every service is compared.
//! Never: sends a packet.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{
    Scrape,
    wait::{PATIENCE, wait_until},
};

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z' }
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, 'fd96::7']
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [198.51.100.0/24]
  sessionAffinity: ClientIP
  ports: [{ name: http, port: 80, nodePort: 30080, targetPort: 8080 }]
status:
  loadBalancer: { ingress: [{ ip: 203.0.113.7 }, { ip: 203.0.113.8, ipMode: Proxy }] }
";

fn slice(endpoints: &str, port: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: web-1, namespace: shop, labels: \
         {{ kubernetes.io/service-name: web }} }}\naddressType: IPv4\nendpoints: [{endpoints}]\nports: [{{ {port} }}]\n"
    )
}

/// `service frontend: backends`, where there are none what becomes of packets, and what those outside get if it is not the same.
fn lines(rows: &Value) -> Vec<String> {
    let line = |row: &Value| {
        let text = |field: &str| row[field].as_str().unwrap_or("-").to_owned();
        let list = row["backends"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
        let backends = if list.is_empty() { text("whenNone") } else { list.join(" ") };
        let outside = match &row["fromOutside"] {
            Value::Null => String::new(),
            Value::Array(list) => format!(" / {}", list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
            other => format!(" / {}", other.as_str().unwrap_or_default()),
        };
        format!("{} {}: {backends}{outside}", text("service"), text("frontend"))
    };
    rows.as_array().into_iter().flatten().map(line).collect()
}

fn expect(s: &Story, what: &str, expected: &[&str]) -> Result<()> {
    let mut seen = Vec::new();
    let shown = wait_until(what, PATIENCE, || {
        seen = lines(&s.node.show("services")?);
        Ok(seen == expected)
    });
    shown.map_err(|error| error.context(format!("{seen:#?}")))
}

fn remarks(s: &Story, service: &str) -> Result<String> {
    let rows = s.node.show("services")?;
    let of = |row: &&Value| row["service"].as_str().is_some_and(|name| name.starts_with(service));
    Ok(rows.as_array().into_iter().flatten().filter(of).map(|row| row["remarks"].to_string()).collect())
}

#[test]
fn services_and_their_slices_are_read_chosen_from_and_shown_as_they_change() -> Result<()> {
    story(&["shop/a"], |s| {
        let nodes_own = s.node.addresses();
        let node_port = |family: usize, rest: &str| match nodes_own[family] {
            std::net::IpAddr::V4(address) => format!("shop/web:http {address}:30080/TCP: {rest}"),
            std::net::IpAddr::V6(address) => format!("shop/web:http [{address}]:30080/TCP: {rest}"),
        };
        let expect_web = |s: &Story, what: &str, v4: [&str; 3]| {
            let [inside, balanced, at_node] = v4;
            let (of_node, of_node_v6) = (node_port(0, at_node), node_port(1, "refused: no backend"));
            expect(
                s,
                what,
                &[
                    &format!("shop/web:http 10.96.0.7:80/TCP: {inside}"),
                    "shop/web:http [fd96::7]:80/TCP: refused: no backend",
                    &of_node,
                    &of_node_v6,
                    &format!("shop/web:http 203.0.113.7:80/TCP: {balanced}"),
                ],
            )
        };
        s.cluster.manifest("web", WEB)?;
        let none = "refused: no backend";
        expect_web(s, "a service without endpoints", [none, none, none])?;

        let here = s.node.name();
        let two =
            format!("{{ addresses: [10.65.0.9], nodeName: {here} }}, {{ addresses: [10.65.1.9], nodeName: other }}");
        s.cluster.manifest("slice", &slice(&two, "name: http, port: 8080"))?;
        let both = "10.65.0.9:8080 10.65.1.9:8080";
        let local = format!("{both} / 10.65.0.9:8080");
        expect_web(s, "two endpoints, one of them here", [both, &local, &local])?;

        let going =
            two.replace(&format!("nodeName: {here}"), "conditions: { ready: false, serving: true, terminating: true }");
        s.cluster.manifest("slice", &slice(&going, "name: http, port: 8080"))?;
        let away = "10.65.1.9:8080 / dropped: backends are on other nodes";
        expect_web(s, "the one here is gone", ["10.65.1.9:8080", away, away])?;

        // What cannot be read leaves what was.
        s.cluster.manifest("slice", &slice(&going, "name: http, port: 0"))?;
        wait_until("the slice is named", PATIENCE, || {
            let said = s.node.show("status")?.to_string();
            Ok(said.contains("EndpointSlice shop/web-1") && said.contains("its last good revision stays"))
        })?;
        s.cluster.manifest("web", &WEB.replace("port: 80,", "port: 'http',"))?;
        wait_until("the service is named", PATIENCE, || {
            let said = s.node.show("status")?.to_string();
            Ok(said.contains("Service shop/web: spec.ports[0].port") && said.contains("its last good revision stays"))
        })?;
        expect_web(s, "as before", ["10.65.1.9:8080", away, away])?;

        s.cluster.remove("slice")?;
        s.cluster.remove("web")?;
        expect(s, "the service is gone", &[])
    })
}

#[test]
fn what_writers_of_services_should_know_stands_beside_them_and_in_the_status() -> Result<()> {
    story(&["shop/a"], |s| {
        let older = "apiVersion: v1\nkind: Service\nmetadata: { name: NAME, namespace: shop, creationTimestamp: 'YEAR-01-01T00:00:00Z' }\n\
                     spec: { clusterIP: 10.96.0.7, ports: [{ port: 80 }] }\n";
        let named = |name: &str, year: &str| older.replace("NAME", name).replace("YEAR", year);
        s.cluster.manifest("b", &named("b", "2025"))?;
        s.cluster.manifest("a", &named("a", "2026"))?;
        let names =
            "apiVersion: v1\nkind: Service\nmetadata: { name: names, namespace: shop }\nspec: { clusterIP: None }\n";
        s.cluster.manifest("names", names)?;
        expect(
            s,
            "the older has it",
            &["shop/a -: -", "shop/b 10.96.0.7:80/TCP: refused: no backend", "shop/names -: -"],
        )?;
        ensure!(remarks(s, "shop/a")?.contains("10.96.0.7:80/TCP is taken by shop/b"), "{}", remarks(s, "shop/a")?);
        ensure!(s.node.show("status")?["problems"].to_string().contains("Service shop/a: 10.96.0.7:80/TCP is taken"));

        let slice = slice("{ addresses: [192.0.2.9] }", "name: http, port: 8080").replace("name: web }", "name: b }");
        s.cluster.manifest("slice", &slice)?;
        wait_until("no port of that name", PATIENCE, || {
            let said = remarks(s, "shop/b")?;
            Ok(said.contains("no slice has a port TCP") && said.contains("192.0.2.9 of its endpoints: in no IP pool"))
        })?;
        s.cluster.manifest("b", &named("b", "2027"))?;
        expect(
            s,
            "made anew, it is the younger",
            &["shop/a 10.96.0.7:80/TCP: refused: no backend", "shop/b -: -", "shop/names -: -"],
        )?;
        let table = s.node.tortie(&["show", "services"])?;
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        ensure!(text.starts_with("SERVICE") && text.contains("10.96.0.7:80/TCP"), "{text}");
        Ok(())
    })
}

#[test]
fn a_load_balancer_hears_how_many_backends_this_node_has_and_what_is_in_the_way_is_named() -> Result<()> {
    story(&["shop/a"], |s| {
        let namespace = s.node.namespace();
        let holder = namespace.inside(|| Ok(std::net::TcpListener::bind("0.0.0.0:32100")?))?;
        let process = namespace.inside(|| Ok(std::net::TcpListener::bind("0.0.0.0:30080")?))?;
        let balanced =
            WEB.replace("externalTrafficPolicy: Local", "externalTrafficPolicy: Local\n  healthCheckNodePort: 32100");
        ensure!(balanced != WEB, "the manifest has another form");
        s.cluster.manifest("web", &balanced)?;
        wait_until("who is in the way is named", PATIENCE, || {
            let said = remarks(s, "shop/web:http")?;
            Ok(said.contains("healthCheckNodePort cannot be served: 0.0.0.0:32100")
                && said.contains("node port 30080/TCP")
                && said.contains(&format!("(pid {})", std::process::id())))
        })?;
        wait_until("it is counted", PATIENCE, || {
            let seen = Scrape::of(namespace, (std::net::Ipv4Addr::LOCALHOST, 9091).into())?;
            let count = |about: &str| seen.value(&format!("tortie_service_remarks{{about=\"{about}\"}}"));
            Ok(count("node-port")? >= 1.0 && count("health-port")? >= 1.0 && count("taken")? < 1.0)
        })?;
        drop((holder, process));
        let asks = |wanted: (&str, u64)| {
            wait_until(&format!("the balancer hears {wanted:?}"), PATIENCE, || {
                let Ok(answer) = namespace.inside(ask_health) else { return Ok(false) };
                let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                let said: Value = serde_json::from_str(body).unwrap_or_default();
                Ok(answer.starts_with(&format!("HTTP/1.1 {} ", wanted.0)) && said["localEndpoints"] == wanted.1)
            })
        };
        asks(("503", 0))?;
        let here = s.node.name();
        let two =
            format!("{{ addresses: [10.65.0.9], nodeName: {here} }}, {{ addresses: [10.65.1.9], nodeName: other }}");
        s.cluster.manifest("slice", &slice(&two, "name: http, port: 8080"))?;
        asks(("200", 1))?;
        let going = two.replace(
            &format!("nodeName: {here}"),
            &format!("nodeName: {here}, conditions: {{ ready: false, serving: true, terminating: true }}"),
        );
        s.cluster.manifest("slice", &slice(&going, "name: http, port: 8080"))?;
        asks(("503", 0))?;
        wait_until("nothing is in the way any more", PATIENCE, || {
            let said = remarks(s, "shop/web:http")?;
            Ok(!said.contains("node port 30080") && !said.contains("cannot be served"))
        })
    })
}

/// As a load balancer asks.
fn ask_health() -> Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect("127.0.0.1:32100")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn what_a_change_of_services_would_do_is_told_before_it_is_made() -> Result<()> {
    story(&["shop/a"], |s| {
        s.cluster.manifest("web", WEB)?;
        let to = |address: &str| slice(&format!("{{ addresses: [{address}] }}"), "name: http, port: 8080");
        s.cluster.manifest("slice", &to("10.65.0.9"))?;
        wait_until("it is served", PATIENCE, || Ok(s.node.show("services")?.to_string().contains("10.65.0.9:8080")))?;
        let file = s.cluster.directory().join("later.txt");
        std::fs::write(&file, to("10.65.0.8"))?;
        let path = file.to_str().context("a path of text")?;
        let told = s.node.tortie(&["policy", "test", path])?;
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        let wanted = "shop/web:http at 10.96.0.7:80/TCP: to 10.65.0.8:8080; now to 10.65.0.9:8080";
        ensure!(told.status.code() == Some(1) && said.contains(wanted), "{said}");
        std::fs::write(&file, to("10.65.0.9"))?;
        let told = s.node.tortie(&["policy", "test", path])?;
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        ensure!(told.status.code() == Some(0) && said.contains("no verdict would change"), "{said}");
        Ok(())
    })
}

#[test]
fn ten_thousand_services_with_ten_backends_each_are_shown_whole() -> Result<()> {
    use std::fmt::Write as _;
    story(&["shop/a"], |s| {
        let mut text = String::new();
        for number in 0..10_000u32 {
            let (high, low) = (number / 250, number % 250 + 1);
            let endpoints: Vec<_> =
                (1..=10).map(|last| format!("{{ addresses: [10.65.{}.{last}] }}", number % 250)).collect();
            write!(
                text,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: s{number}, namespace: many }}\nspec: {{ clusterIP: \
                 10.97.{high}.{low}, ports: [{{ port: 80 }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{ name: s{number}-1, namespace: many, labels: {{ kubernetes.io/service-name: s{number} }} }}\n\
                 addressType: IPv4\nendpoints: [{}]\nports: [{{ port: 8080 }}]\n",
                endpoints.join(", ")
            )?;
        }
        s.cluster.manifest("many", &text)?;
        let rows = |what: &[&str]| -> Result<usize> {
            let told = s.node.tortie(&[&["show"], what, &["--output", "json"]].concat())?;
            let rows: Vec<Value> = serde_json::from_slice(&told.stdout)
                .with_context(|| String::from_utf8_lossy(&told.stderr).into_owned())?;
            Ok(rows.into_iter().filter(|row| row["inForce"].is_null()).count())
        };
        wait_until("all are in force", PATIENCE * 4, || Ok(rows(&["services"])? == 10_000))?;
        ensure!(rows(&["backends"])? == 100_000, "backends are left out");
        ensure!(rows(&["backends", "many/s7"])? == 10, "of one service");
        Ok(())
    })
}
