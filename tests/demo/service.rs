//! The story's service: a client asks one address, a backend goes, the next answers.
//! In: a stage with its pods and its policy. Out: who answered, and what the agent says of it.
//! Invariant: both servers have answered before one goes; no request fails meanwhile.
//! Never: prints what it did not see.

use crate::{
    stage::{Stage, WEB},
    story::say,
};
use anyhow::{Context as _, Result, ensure};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
};
use tests::{probe::read_line, wait};

/// The service's own address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The service, as a user would write it.
const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: front }
spec:
  clusterIP: 10.96.0.10
  selector: { tier: front }
  ports: [{ port: 80 }]
";

/// Shows it.
pub fn show(stage: &Stage) -> Result<()> {
    say(SERVICE);
    stage.cluster.manifest("service", SERVICE)?;
    behind(stage, &["shop/web", "shop/spare"])?;
    let mut answers = BTreeMap::new();
    wait::wait_until("both servers answer", wait::PATIENCE, || {
        if let Ok(who) = who(stage) {
            *answers.entry(who).or_insert(0) += 1;
        }
        Ok(answers.len() == 2)
    })?;
    for _ in 0..100 {
        *answers.entry(who(stage)?).or_insert(0) += 1;
    }
    say(&format!("shop/client asks {ADDRESS}: {}", told(&answers)));

    say("the web server is guarded by web-from-shop, the spare one is not:");
    ask(stage, &["explain", "--from", "other/stranger", "--to", "shop/front", "--port", "80"], 1, "depends on")?;

    behind(stage, &["shop/spare"])?;
    wait::wait_until("the other answers alone", wait::PATIENCE, || {
        let ten: Vec<_> = (0..10).map(|_| who(stage)).collect::<Result<_>>()?;
        Ok(ten.iter().all(|who| who == "shop/spare"))
    })?;
    let mut answers = BTreeMap::new();
    for _ in 0..100 {
        *answers.entry(who(stage)?).or_insert(0) += 1;
    }
    say(&format!("shop/web leaves the service, and no request was lost: {}", told(&answers)));
    ask(stage, &["show", "backends", "shop/front"], 0, "shop/spare")
}

/// What the cluster would write for a selector: who stands behind the service.
fn behind(stage: &Stage, pods: &[&str]) -> Result<()> {
    let mut endpoints = Vec::new();
    for pod in pods {
        let own = stage.pod(pod)?.addresses().iter().find(|address| address.is_ipv4());
        let address = own.with_context(|| format!("{pod} has no IPv4 address"))?;
        endpoints.push(format!("{{ addresses: [{address}], nodeName: node }}"));
    }
    let slice = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ namespace: shop, name: front-1, \
         labels: {{ kubernetes.io/service-name: front }} }}\naddressType: IPv4\nendpoints: [{}]\nports: [{{ port: {WEB} }}]\n",
        endpoints.join(", ")
    );
    stage.cluster.manifest("slice", &slice)
}

/// Who greets the client at the service.
fn who(stage: &Stage) -> Result<String> {
    let greeting = stage.pod("shop/client")?.namespace().inside(|| {
        let at = SocketAddr::new(IpAddr::V4(ADDRESS), 80);
        let mut stream = TcpStream::connect_timeout(&at, wait::PATIENCE)?;
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        Ok(read_line(&mut stream)?)
    })?;
    let known = stage.pods.iter().find(|pod| greeting.contains(pod.id()));
    Ok(known.map_or(greeting.clone(), |pod| pod.id().to_owned()))
}

fn told(answers: &BTreeMap<String, usize>) -> String {
    let each: Vec<_> = answers.iter().map(|(who, times)| format!("{who} answers {times} times")).collect();
    each.join(", ")
}

/// Shows what the agent says.
fn ask(stage: &Stage, arguments: &[&str], code: i32, part: &str) -> Result<()> {
    say(&format!("$ tortie {}", arguments.join(" ")));
    let output = stage.node.tortie(arguments)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    say(&said);
    let is_so = output.status.code() == Some(code) && said.to_lowercase().contains(part);
    ensure!(is_so, "that is not so: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
