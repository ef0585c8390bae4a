//! Policies by kubectl, met by packets; addresses by blocks that the API server keeps.
//! In: objects applied. Out: tables, annotations, blocks.
//! Invariant: what is expected after a change differs from what was seen before it.
//! Never: waits for a change by time.

use crate::story::{NATIVE, STORED, story, story_in};
use anyhow::{Context as _, Result, ensure};
use tests::{Outcome, Pod, Probe::Tcp, probe::probe, wait};

const DENY: &str = "{ podSelector: {}, policyTypes: [Ingress] }";

#[test]
fn a_policy_that_kubectl_applies_is_met_by_packets_and_one_that_it_deletes_no_more() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.expect(Tcp(80), "x/a\n x/b .")?;
        s.policy("x/p", DENY)?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        s.drop_policy("x/p")?;
        s.expect(Tcp(80), "x/a\n x/b .")
    })
}

#[test]
fn calc_29_a_pods_addresses_are_held_by_a_block_and_told_at_the_pod_until_it_is_gone() -> Result<()> {
    story(&["x/a"], |s| {
        let addresses: Vec<_> = s.pod("x/a")?.addresses().iter().map(ToString::to_string).collect();
        let told = || -> Result<Option<String>> {
            let pod = s.cluster.get(&["pod", "-n", "x", "a"])?;
            Ok(pod["metadata"]["annotations"]["cni.projectcalico.org/podIPs"].as_str().map(str::to_owned))
        };
        wait::wait_until("the pod says its addresses", wait::PATIENCE, || {
            Ok(told()?.is_some_and(|told| addresses.iter().all(|address| told.contains(address.as_str()))))
        })?;
        let held = s.cluster.held_addresses()?;
        ensure!(held == addresses.len(), "{held} addresses are held");
        s.pods.values_mut().try_for_each(Pod::delete)?;
        wait::wait_until("the pod says that it has none", wait::PATIENCE, || Ok(told()?.as_deref() == Some("")))?;
        let held = s.cluster.held_addresses()?;
        ensure!(held == 0, "{held} addresses are held for nobody");
        Ok(())
    })
}

#[test]
fn an_api_server_that_is_killed_takes_nothing_away_and_is_heard_again_when_it_is_back() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", DENY)?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        s.cluster.kill_apiserver()?;
        s.node.agent.stop()?;
        s.node.agent.start()?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        s.cluster.start_apiserver()?;
        s.node.wait_ready()?;
        s.drop_policy("x/p")?;
        s.expect(Tcp(80), "x/a\n x/b .")
    })
}

#[test]
fn calicos_policies_are_met_in_whichever_group_the_cluster_keeps_them() -> Result<()> {
    for group @ (name, version) in [NATIVE, STORED] {
        story_in(group, &["x/a", "x/b"], |s| {
            s.expect(Tcp(80), "x/a\n x/b .")?;
            let policy = format!(
                "apiVersion: {name}/{version}\nkind: GlobalNetworkPolicy\nmetadata: {{ name: default.deny }}\n\
                 spec: {{ tier: default, selector: pod == 'a', types: [Ingress], ingress: [{{ action: Deny }}] }}\n"
            );
            s.cluster.manifest("deny", &policy)?;
            s.expect(Tcp(80), "x/a\n x/b X")?;
            s.cluster.remove("deny")?;
            s.expect(Tcp(80), "x/a\n x/b .")
        })
        .with_context(|| format!("in {name}/{version}"))?;
    }
    Ok(())
}

#[test]
fn a_right_that_is_missing_is_named_and_what_was_in_force_stays() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", DENY)?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        let mut role = s.cluster.get(&["clusterrole", "tortie"])?;
        let rules = role["rules"].as_array_mut().context("rules")?;
        rules.retain(|rule| rule["apiGroups"][0] != "networking.k8s.io");
        s.cluster.kubectl(&["replace", "-f", "-"], &role.to_string())?;
        s.node.agent.stop()?;
        s.node.agent.start()?;
        wait::wait_until("the agent says what it may not do", wait::PATIENCE, || {
            let problems = s.node.show("status")?["problems"].to_string();
            Ok(problems.contains("forbidden") && problems.contains("networkpolicies.networking.k8s.io"))
        })?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        s.cluster.grant()?;
        s.node.wait_ready()?;
        s.drop_policy("x/p")?;
        s.expect(Tcp(80), "x/a\n x/b .")
    })
}

#[test]
fn a_service_of_the_cluster_leads_to_the_endpoints_of_its_slices() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let backend =
            s.pod("x/b")?.addresses().iter().find(|address| address.is_ipv4()).copied().context("an address")?;
        let service = "apiVersion: v1\nkind: Service\nmetadata: { name: shop, namespace: x }\n\
                       spec: { clusterIP: 10.96.0.10, ports: [{ name: web, port: 443, targetPort: 80 }] }\n";
        s.cluster.manifest("shop", service)?;
        let slice = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{ name: shop-1, namespace: x, labels: {{ kubernetes.io/service-name: shop }} }}\n\
             endpoints: [{{ addresses: ['{backend}'], conditions: {{ ready: true }} }}]\n\
             ports: [{{ name: web, port: 80, protocol: TCP }}]\n"
        );
        s.cluster.manifest("shop-1", &slice)?;
        let from = s.pod("x/a")?.namespace();
        wait::wait_until("the service answers", wait::PATIENCE, || {
            Ok(probe(from, "10.96.0.10".parse()?, Tcp(443))? == Outcome::Allowed)
        })
    })
}
