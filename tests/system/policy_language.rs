//! Calico's and the cluster policies with real packets: CAL and CNP rows that a user would try first.
//! In: manifests of tiers, policies, sets and profiles, dropped into the directory. Out: tables before and after.
//! Invariant: every table differs from the one before it.
//! Never: waits for a change by time.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, ensure};
use tests::{
    Outcome, PodSpec,
    Probe::{Ping, Tcp, Udp},
};

/// An object of `projectcalico.org/v3` without a namespace.
fn calico(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{ name: '{name}' }}\nspec: {spec}\n")
}

fn cluster_policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{ name: '{name}' }}\nspec: {spec}\n"
    )
}

/// Writes a GlobalNetworkPolicy.
fn global(s: &Story, name: &str, spec: &str) -> Result<()> {
    s.cluster.manifest(name, &calico("GlobalNetworkPolicy", name, spec))
}

/// What `explain` says of TCP 80, and whether it lets it through.
fn explained(s: &Story, from: &str, to: &str) -> Result<(String, bool)> {
    let told = s.node.tortie(&["explain", "--from", from, "--to", to, "--port", "80", "--proto", "tcp"])?;
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(!said.contains("ALARM"), "kernel and evaluator disagree: {said}");
    Ok((said, told.status.success()))
}

#[test]
fn cal_2_cal_3_a_global_policy_dropped_into_the_directory_refuses_and_a_tier_before_it_passes_or_allows() -> Result<()>
{
    story(&["x/a", "x/b", "y/b"], |s| {
        s.expect(Tcp(80), "x/a\n x/b .\n y/b .")?;
        global(
            s,
            "deny",
            "{ selector: pod == 'a', types: [Ingress], ingress: [{ action: Deny, source: { namespaceSelector: ns == 'x' } }, { action: Allow }] }",
        )?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/b .")?;
        let (said, lets) = explained(s, "x/b", "x/a")?;
        ensure!(!lets && said.contains("GlobalNetworkPolicy deny"), "{said}");

        s.cluster.manifest("tier", &calico("Tier", "platform", "{ order: 10 }"))?;
        global(
            s,
            "first",
            "{ tier: platform, selector: pod == 'a', types: [Ingress], ingress: [{ action: Allow, source: { selector: pod == 'b' , namespaceSelector: ns == 'x' } }] }",
        )?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/b X")?;
        let (said, lets) = explained(s, "y/b", "x/a")?;
        ensure!(!lets && said.contains("platform"), "{said}");
        s.cluster.manifest("tier", &calico("Tier", "platform", "{ order: 10, defaultAction: Pass }"))?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/b .")?;
        global(s, "first", "{ tier: platform, selector: pod == 'a', types: [Ingress], ingress: [{ action: Pass }] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/b .")?;
        s.cluster.remove("deny")?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/b .")?;
        ensure!(explained(s, "x/b", "x/a")?.0.contains("every tier passes"), "the profile decides");
        Ok(())
    })
}

#[test]
fn cal_11_cal_20_cal_29_negated_ports_protocols_and_icmp() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        global(
            s,
            "p",
            "{ selector: pod == 'a', types: [Ingress], ingress: [{ action: Allow, protocol: TCP, destination: { notPorts: [80] } }] }",
        )?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        s.expect_now(Tcp(81), "x/a\n x/b .")?;
        s.expect_now(Udp(81), "x/a\n x/b X")?;
        global(s, "p", "{ selector: pod == 'a', types: [Ingress], ingress: [{ action: Allow, notProtocol: TCP }] }")?;
        s.expect(Tcp(81), "x/a\n x/b X")?;
        s.expect_now(Udp(81), "x/a\n x/b .")?;
        s.expect_now(Ping, "x/a\n x/b .")?;
        let no_echo = [("ICMP", 4, 8), ("ICMPv6", 6, 128)].map(|(protocol, version, request)| {
            format!("{{ action: Deny, ipVersion: {version}, protocol: {protocol}, icmp: {{ type: {request} }} }}")
        });
        let rules = format!("[{}, {{ action: Allow }}]", no_echo.join(", "));
        global(s, "p", &format!("{{ selector: pod == 'a', types: [Ingress], ingress: {rules} }}"))?;
        s.expect(Ping, "x/a\n x/b X")?;
        s.expect_now(Udp(81), "x/a\n x/b .")
    })
}

#[test]
fn cal_34_a_network_set_is_a_peer_while_it_has_the_address() -> Result<()> {
    story(&["x/a", "x/b", "y/b"], |s| {
        global(
            s,
            "p",
            "{ selector: pod == 'a', types: [Egress], egress: [{ action: Deny, destination: { selector: role == 'bad' } }, { action: Allow }] }",
        )?;
        s.expect(Tcp(80), "x/b y/b\n x/a . .")?;
        let set = |nets: &[String]| {
            let nets = nets.join(", ");
            format!(
                "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{ name: bad, labels: {{ role: bad }} }}\nspec: {{ nets: [{nets}] }}\n"
            )
        };
        s.cluster.manifest("set", &set(&["0.0.0.0/0".into(), "'::/0'".into()]))?;
        s.expect(Tcp(80), "x/b y/b\n x/a X X")?;
        let own = s.pod("x/b")?.addresses().iter().map(|address| format!("'{address}'")).collect::<Vec<_>>();
        s.cluster.manifest("set", &set(&own))?;
        s.expect(Tcp(80), "x/b y/b\n x/a X .")?;
        s.cluster.remove("set")?;
        s.expect(Tcp(80), "x/b y/b\n x/a . .")
    })
}

#[test]
fn cnp_2_cnp_32_admin_denies_pass_falls_to_the_baseline_and_a_policy_of_the_pod_comes_between() -> Result<()> {
    story(&["x/a", "x/b", "y/b"], |s| {
        let subject = "{ pods: { namespaceSelector: {}, podSelector: { matchLabels: { pod: a } } } }";
        let from_x = "[{ namespaces: { matchLabels: { ns: 'x' } } }]";
        let admin = |action: &str| {
            let spec = format!(
                "{{ tier: Admin, priority: 5, subject: {subject}, ingress: [{{ action: {action}, from: {from_x} }}] }}"
            );
            cluster_policy("admin", &spec)
        };
        s.cluster.manifest("admin", &admin("Deny"))?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/b .")?;
        let (said, _) = explained(s, "x/b", "x/a")?;
        ensure!(said.contains("ClusterNetworkPolicy admin") && said.contains("kube-admin"), "{said}");
        s.cluster.manifest("admin", &admin("Pass"))?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/b .")?;
        let everybody = "[{ namespaces: {} }]";
        let spec = format!(
            "{{ tier: Baseline, priority: 5, subject: {subject}, ingress: [{{ action: Deny, from: {everybody} }}] }}"
        );
        s.cluster.manifest("baseline", &cluster_policy("baseline", &spec))?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/b X")?;
        s.policy("x/open", "{ podSelector: {}, ingress: [{ from: [{ podSelector: {} }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/b X")
    })
}

#[test]
fn cnp_35_an_accept_covers_replies_and_the_errors_about_what_it_accepted() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let subject = "{ pods: { namespaceSelector: {}, podSelector: { matchLabels: { pod: a } } } }";
        let everybody = "[{ namespaces: {} }]";
        let to_b = "[{ pods: { namespaceSelector: {}, podSelector: { matchLabels: { pod: b } } } }]";
        let rules = |accept: &str| {
            format!(
                "{{ tier: Admin, priority: 5, subject: {subject}, ingress: [{{ action: Deny, from: {everybody} }}], \
                 egress: [{accept} {{ action: Deny, to: {everybody} }}] }}"
            )
        };
        s.cluster.manifest("admin", &cluster_policy("admin", &rules("")))?;
        s.expect(Udp(9), "x/b\n x/a X")?;
        s.cluster.manifest("admin", &cluster_policy("admin", &rules(&format!("{{ action: Accept, to: {to_b} }},"))))?;
        // The reply comes back through a closed door, and so does "nobody listens there".
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b X -")?;
        s.wait_probe("x/a", "x/b", Udp(9), Outcome::Reset)
    })
}

#[test]
fn cyc_11_own_17_pods_and_namespaces_that_come_and_go_under_a_policy_count_as_they_are_now() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { ns: 'y' } } }] }] }",
        )?;
        s.expect(Tcp(80), "x/a\n y/a .")?;
        s.add(&PodSpec::new("x/b"))?;
        s.add(&PodSpec::new("y/b"))?;
        s.expect_now(Tcp(80), "x/a x/b\n x/a - X\n x/b X -\n y/a . .\n y/b . .").context("from the first packet")?;
        s.pods.remove("y/b").context("no pod y/b")?.delete()?;
        s.cluster.remove("pod-y-b")?;
        s.cluster.remove("namespace-y")?;
        s.expect(Tcp(80), "x/a x/b\n y/a X X").context("a namespace that is gone")?;
        // Its name comes back, and then its labels.
        s.cluster.namespace("y", &[("ns", "other")])?;
        s.add(&PodSpec::new("y/c"))?;
        s.expect(Tcp(80), "x/a x/b\n y/a X X\n y/c X X")?;
        s.cluster.namespace("y", &[("ns", "y")])?;
        s.expect(Tcp(80), "x/a x/b\n y/a . .\n y/c . .")
    })
}

#[test]
fn cal_1_a_policy_of_a_tier_that_nobody_made_is_enforced_last_and_the_status_says_so() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        global(s, "lost", "{ tier: nowhere, selector: pod == 'a', types: [Ingress], ingress: [] }")?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        let told = s.node.tortie(&["show", "status"])?;
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        ensure!(said.contains("GlobalNetworkPolicy lost") && said.contains("nowhere"), "{said}");
        s.cluster.manifest("tier", &calico("Tier", "nowhere", "{ order: 10, defaultAction: Pass }"))?;
        s.expect(Tcp(80), "x/a\n x/b .")?;
        let told = s.node.tortie(&["show", "status"])?;
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        ensure!(!said.contains("nowhere"), "{said}");
        Ok(())
    })
}

#[test]
fn cal_9_an_unreadable_deny_of_a_global_policy_refuses_everything_and_the_status_says_so() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let rules = "[{ action: Deny, source: { selector: 'pod = b' } }, { action: Allow }]";
        global(s, "p", &format!("{{ selector: pod == 'a', types: [Ingress], ingress: {rules} }}"))?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        let told = s.node.tortie(&["show", "status"])?;
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        ensure!(said.contains("spec.ingress[0].source.selector"), "{said}");
        Ok(())
    })
}
