//! Our definitions of Calico's kinds, on a real API server.
//! In: objects as Calico, calicoctl and people write them. Out: taken whole, or refused with a sentence that says what.
//! Invariant: each check refuses something here, and the object beside it, which differs in that alone, is taken.
//! Never: an agent.

use crate::story::STORED;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Cluster;

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// A cluster that keeps Calico's objects as calicoctl does; no agent.
fn cluster() -> Result<Cluster> {
    Cluster::served(STORED)
}

/// What is in `written` is in `kept`.
fn holds(kept: &Value, written: &Value) -> bool {
    match (kept, written) {
        (Value::Object(kept), Value::Object(written)) => {
            written.iter().all(|(key, value)| kept.get(key).is_some_and(|kept| holds(kept, value)))
        }
        (Value::Array(kept), Value::Array(written)) => {
            kept.len() == written.len() && kept.iter().zip(written).all(|(kept, written)| holds(kept, written))
        }
        _ => kept == written,
    }
}

/// One of each kind, with what Calico writes, and a field that nobody knows yet wherever there may be one.
fn whole_policies() -> Vec<Value> {
    let end = json!({
        "nets": ["10.0.0.1/8", "fd00::1"], "notNets": ["10.1.0.0/16"], "selector": "app == 'a'", "notSelector": "has(x)",
        "namespaceSelector": "global()", "ports": [80, "8000:8080", "http"], "notPorts": ["0", 65535], "new": 1,
        "serviceAccounts": { "names": ["a"], "selector": "all()", "new": 1 },
    });
    let rule = json!({
        "action": "Allow", "ipVersion": 4, "protocol": "TCP", "notProtocol": 132, "source": end, "destination": end,
        "http": { "methods": ["GET"], "paths": [{ "exact": "/" }] }, "metadata": { "annotations": { "why": "not" } }, "new": {},
    });
    let ping =
        json!({ "action": "Deny", "protocol": 58, "icmp": { "type": 128, "code": 0 }, "notICMP": { "type": 254 } });
    let served =
        json!({ "action": "Allow", "source": { "services": { "name": "shop", "namespace": "x" }, "ports": ["http"] } });
    let policy = json!({
        "tier": "default", "order": 10.5, "selector": "all()", "serviceAccountSelector": "has(x)", "types": ["Ingress", "Egress"],
        "ingress": [rule, ping, served], "egress": [rule], "performanceHints": ["AssumeNeededOnEveryNode"], "new": 1,
    });
    let with = |base: &Value, more: Value| {
        let mut base = base.clone();
        base.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        base
    };
    let global = with(&policy, json!({ "namespaceSelector": "all()", "applyOnForward": true, "doNotTrack": true }));
    let before = with(&policy, json!({ "preDNAT": true, "applyOnForward": true, "egress": [], "types": ["Ingress"] }));
    let staged = json!({ "stagedAction": "Set" });
    let mut annotated = object("NetworkPolicy", "default.foo", policy.clone());
    annotated["metadata"]["annotations"] = json!({ "projectcalico.org/metadata": "{\"name\":\"foo\"}" });
    let kubernetes =
        json!({ "podSelector": { "matchLabels": { "a": "b" } }, "ingress": [{ "from": [{ "podSelector": {} }] }] });
    vec![
        annotated,
        object("GlobalNetworkPolicy", "security.g", global.clone()),
        object("GlobalNetworkPolicy", "h", before),
        object("StagedNetworkPolicy", "s", with(&policy, staged.clone())),
        object("StagedGlobalNetworkPolicy", "s", with(&global, staged.clone())),
        object("StagedKubernetesNetworkPolicy", "s", with(&kubernetes, staged)),
    ]
}

/// The other kinds.
fn whole_others() -> Vec<Value> {
    let mut pool = object(
        "IPPool",
        "p",
        json!({
            "cidr": "10.9.0.0/16", "blockSize": 26, "natOutgoing": true, "nodeSelector": "all()", "ipipMode": "Never",
            "vxlanMode": "CrossSubnet", "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic", "new": 1,
        }),
    );
    pool["metadata"]["labels"] = json!({ "a": "b" });
    vec![
        object("Tier", "security", json!({ "order": 1.5, "defaultAction": "Pass", "new": 1 })),
        object("Tier", "default", json!({ "order": 1_000_000, "defaultAction": "Deny" })),
        object("Tier", "kube-admin", json!({ "order": 1000, "defaultAction": "Pass" })),
        object("Tier", "kube-baseline", json!({ "order": 10_000_000, "defaultAction": "Pass" })),
        object("NetworkSet", "n", json!({ "nets": ["10.0.0.0/8", "1.2.3.4", "fd00::/8"], "new": 1 })),
        object("GlobalNetworkSet", "n", json!({})),
        object(
            "HostEndpoint",
            "e",
            json!({
                "node": "a", "interfaceName": "*", "expectedIPs": ["10.0.0.1", "fd00::1"], "profiles": ["p"],
                "ports": [{ "name": "http", "protocol": "TCP", "port": 80 }], "new": 1,
            }),
        ),
        object(
            "FelixConfiguration",
            "default",
            json!({
                "bpfEnabled": false, "defaultEndpointToHostAction": "Return", "iptablesFilterDenyAction": "Drop",
                "failsafeInboundHostPorts": [{ "protocol": "tcp", "port": 22, "net": "10.0.0.0/8" }], "logSeverityScreen": "Info",
            }),
        ),
        object(
            "CalicoNodeStatus",
            "n",
            json!({ "node": "a", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 10, "new": 1 }),
        ),
        pool,
        object("IPPool", "q", json!({ "cidr": "fd00:9::/64" })),
        object(
            "IPAMBlock",
            "10-9-0-0-30",
            json!({
                "cidr": "10.9.0.0/30", "affinity": "host:a", "allocations": [0, null, null, null], "unallocated": [1, 2, 3],
                "attributes": [{ "handle_id": "h", "secondary": { "node": "a" }, "releasedAt": "2026-01-01T00:00:00Z" }],
                "sequenceNumber": 17, "sequenceNumberForAllocation": { "0": 16 }, "deleted": false, "strictAffinity": false, "new": 1,
            }),
        ),
        object(
            "BlockAffinity",
            "a-10-9-0-0-30",
            json!({
                "cidr": "10.9.0.0/30", "node": "a", "state": "confirmed", "type": "host", "deleted": "false", "new": 1,
            }),
        ),
        object(
            "IPAMHandle",
            "h",
            json!({ "handleID": "h", "block": { "10.9.0.0/30": 1 }, "deleted": false, "new": 1 }),
        ),
    ]
}

#[test]
fn what_calico_writes_is_taken_and_kept_whole() -> Result<()> {
    let cluster = cluster()?;
    for written in whole_policies().into_iter().chain(whole_others()) {
        let (kind, name) =
            (written["kind"].as_str().context("a kind")?, written["metadata"]["name"].as_str().context("a name")?);
        cluster.kubectl(&["create", "--validate=strict", "-f", "-"], &written.to_string()).context(kind.to_owned())?;
        let kind = format!("{kind}.v1.crd.projectcalico.org");
        let kept = cluster.get(&[&kind, name])?;
        ensure!(holds(&kept, &written), "{written:#} was taken, {kept:#} was kept");
        ensure!(kept["spec"] == written["spec"], "nothing is filled in: {written:#}, {kept:#}");
    }
    Ok(())
}

/// `base` with this over it (RFC 7386).
fn merged(base: &Value, over: &Value) -> Value {
    let Value::Object(over) = over else { return over.clone() };
    let mut base = base.as_object().cloned().unwrap_or_default();
    for (key, value) in over {
        let value = merged(base.get(key).unwrap_or(&Value::Null), value);
        if value.is_null() {
            base.remove(key)
        } else {
            base.insert(key.clone(), value)
        };
    }
    base.into()
}

/// A rule for what is received, within a policy.
fn ingress(rule: &Value) -> Value {
    json!({ "ingress": [rule] })
}

/// Kind and name; a spec that is taken; what is put over it to have it refused, and what the server says then.
type Refused = (&'static str, &'static str, Value, Value, &'static str);

fn tiers() -> Vec<Refused> {
    let tier = |name, good, over, said| ("Tier", name, good, over, said);
    vec![
        tier(
            "default",
            json!({}),
            json!({ "order": 5 }),
            "the tier 'default' always has order 1000000 and defaultAction Deny",
        ),
        tier(
            "default",
            json!({ "order": 1_000_000 }),
            json!({ "defaultAction": "Pass" }),
            "the tier 'default' always has",
        ),
        tier(
            "kube-admin",
            json!({}),
            json!({ "defaultAction": "Deny" }),
            "the tier 'kube-admin' always has order 1000 and defaultAction Pass",
        ),
        tier(
            "kube-baseline",
            json!({}),
            json!({ "order": 1 }),
            "the tier 'kube-baseline' always has order 10000000 and defaultAction Pass",
        ),
        tier("t", json!({ "order": 1 }), json!({ "order": "first" }), "spec.order in body must be of type number"),
        tier("t", json!({}), json!({ "defaultAction": "Allow" }), "supported values: \"Deny\", \"Pass\""),
    ]
}

fn of_rules(rows: Vec<(&Value, Value, &'static str)>) -> Vec<Refused> {
    let row = |(good, over, said)| ("NetworkPolicy", "p", ingress(good), ingress(&merged(good, &over)), said);
    rows.into_iter().map(row).collect()
}

fn ends() -> Vec<Refused> {
    let tcp = json!({ "action": "Allow", "protocol": "TCP" });
    let bare = json!({ "action": "Allow" });
    let served = json!({ "action": "Allow", "source": { "services": { "name": "a" } } });
    of_rules(vec![
        (
            &tcp,
            json!({ "source": { "ports": [70000] } }),
            "spec.ingress[0].source.ports[0] in body should be less than or equal to 65535",
        ),
        (&tcp, json!({ "source": { "ports": ["1:2:3"] } }), "spec.ingress[0].source.ports[0] in body should match"),
        (
            &tcp,
            json!({ "destination": { "notPorts": vec![1; 51] } }),
            "spec.ingress[0].destination.notPorts: Too many: 51: must have at most 50 items",
        ),
        (
            &bare,
            json!({ "source": { "nets": ["10.0.0.0/33"] } }),
            "must be a network such as 10.0.0.0/8 or fd00::/8, or an address",
        ),
        (&bare, json!({ "source": { "notNets": ["all"] } }), "must be a network such as"),
        (&bare, json!({ "source": { "nets": vec!["10.0.0.0/8"; 257] } }), "must have at most 256 items"),
        (
            &bare,
            json!({ "source": { "selector": "global()" } }),
            "global() may stand in the namespaceSelector of a rule only",
        ),
        (&bare, json!({ "source": { "selector": format!("has({})", "a".repeat(1024)) } }), "may not be more than 1024"),
        (
            &json!({ "action": "Deny", "protocol": "ICMP" }),
            json!({ "source": { "notPorts": ["http"] } }),
            "ports and notPorts need protocol TCP, UDP or SCTP in the rule",
        ),
        (
            &json!({ "action": "Deny", "protocol": 1 }),
            json!({ "source": { "ports": [80] } }),
            "ports and notPorts need protocol TCP, UDP or SCTP in the rule",
        ),
        (
            &served,
            json!({ "source": { "services": { "name": null, "namespace": "x" } } }),
            "services needs the name of a service",
        ),
        (&served, json!({ "source": { "nets": ["10.0.0.0/8"] } }), "nets and notNets cannot stand beside services"),
        (
            &served,
            json!({ "source": { "notSelector": "all()" } }),
            "selector and notSelector cannot stand beside services",
        ),
        (
            &served,
            json!({ "source": { "namespaceSelector": "all()" } }),
            "namespaceSelector and serviceAccounts cannot stand beside services",
        ),
        (
            &bare,
            json!({ "destination": { "services": { "name": "a" } } }),
            "services cannot say who receives in an ingress rule; they may stand in source",
        ),
    ])
}

fn parts_of_rules() -> Vec<Refused> {
    let tcp = json!({ "action": "Allow", "protocol": "TCP" });
    let bare = json!({ "action": "Allow" });
    let ping = json!({ "action": "Deny", "protocol": "ICMP" });
    of_rules(vec![
        (&tcp, json!({ "action": "allow" }), "supported values: \"Allow\", \"Deny\", \"Pass\", \"Log\""),
        (&tcp, json!({ "action": null }), "spec.ingress[0].action: Required value"),
        (&tcp, json!({ "ipVersion": 5 }), "supported values: \"4\", \"6\""),
        (&bare, json!({ "protocol": 256 }), "spec.ingress[0].protocol in body should be less than or equal to 255"),
        (&bare, json!({ "notProtocol": "TCPP" }), "spec.ingress[0].notProtocol in body should match"),
        (&tcp, json!({ "icmp": { "type": 8 } }), "icmp and notICMP need protocol ICMP or ICMPv6 in the rule"),
        (&bare, json!({ "notICMP": { "type": 8 } }), "icmp and notICMP need protocol"),
        (&ping, json!({ "icmp": { "code": 8 } }), "a code needs a type beside it"),
        (&ping, json!({ "icmp": { "type": 255 } }), "should be less than or equal to 254"),
        (&ping, json!({ "ipVersion": 6 }), "ICMP goes with ipVersion 4, ICMPv6 with 6"),
        (
            &json!({ "action": "Deny", "notProtocol": 58 }),
            json!({ "ipVersion": 4 }),
            "ICMP goes with ipVersion 4, ICMPv6 with 6",
        ),
    ])
}

fn policies() -> Vec<Refused> {
    let global = |good, over, said| ("GlobalNetworkPolicy", "p", good, over, said);
    let to_service = |more: Value| json!({ "egress": [merged(&json!({ "action": "Allow", "protocol": "TCP", "destination": { "services": { "name": "a" } } }), &more)] });
    let global_only = "namespaceSelector, doNotTrack, preDNAT and applyOnForward stand in a GlobalNetworkPolicy only";
    let mut all = vec![
        global(
            to_service(json!({})),
            to_service(json!({ "destination": { "ports": [1] } })),
            "ports and notPorts cannot stand beside services in an egress rule",
        ),
        global(
            to_service(json!({})),
            to_service(json!({ "source": { "services": { "name": "a" } } })),
            "services cannot say who sends in an egress rule; they may stand in destination",
        ),
        global(json!({}), json!({ "types": ["Both"] }), "supported values: \"Ingress\", \"Egress\""),
        global(json!({}), json!({ "namespaceSelector": "global()" }), "global() may stand in"),
        global(
            json!({ "applyOnForward": true, "preDNAT": true }),
            json!({ "doNotTrack": true }),
            "preDNAT cannot be true together with doNotTrack",
        ),
        global(
            json!({ "applyOnForward": true, "preDNAT": true }),
            json!({ "types": ["Ingress", "Egress"] }),
            "preDNAT is for ingress alone; put the egress rules into another policy",
        ),
        global(
            json!({ "applyOnForward": true, "preDNAT": true }),
            json!({ "egress": [{ "action": "Deny" }] }),
            "preDNAT is for ingress alone",
        ),
        global(
            json!({ "applyOnForward": true, "doNotTrack": true }),
            json!({ "applyOnForward": false }),
            "applyOnForward must be true where doNotTrack or preDNAT is",
        ),
        global(
            json!({}),
            json!({ "ingress": vec![json!({ "action": "Deny" }); 1025] }),
            "must have at most 1024 items",
        ),
        (
            "StagedNetworkPolicy",
            "p",
            json!({ "stagedAction": "Learn" }),
            json!({ "stagedAction": "Remove" }),
            "supported values: \"Set\"",
        ),
        ("StagedGlobalNetworkPolicy", "p", json!({}), json!({ "preDNAT": true }), "applyOnForward must be true"),
        (
            "StagedKubernetesNetworkPolicy",
            "p",
            json!({ "podSelector": {} }),
            json!({ "stagedAction": "Remove" }),
            "supported values: \"Set\"",
        ),
    ];
    for field in ["doNotTrack", "preDNAT", "applyOnForward"] {
        all.push(("NetworkPolicy", "p", json!({ field: false }), json!({ field: true }), global_only));
    }
    all.push(("StagedNetworkPolicy", "p", json!({}), json!({ "namespaceSelector": "all()" }), global_only));
    all
}

fn hosts() -> Vec<Refused> {
    let felix = |over, said| ("FelixConfiguration", "default", json!({}), over, said);
    let host = json!({ "node": "a", "interfaceName": "eth0" });
    vec![
        ("NetworkSet", "n", json!({ "nets": [] }), json!({ "nets": ["10.0.0"] }), "must be a network such as"),
        ("GlobalNetworkSet", "n", json!({ "nets": ["::/0"] }), json!({ "nets": [7] }), "must be of type string"),
        ("HostEndpoint", "e", host.clone(), json!({ "node": null }), "needs the name of a node"),
        (
            "HostEndpoint",
            "e",
            host.clone(),
            json!({ "interfaceName": "" }),
            "needs the name of an interface, \"*\" for all of the node, or an address that is expected",
        ),
        (
            "HostEndpoint",
            "e",
            host.clone(),
            json!({ "expectedIPs": ["10.0.0.0/8"] }),
            "must be an IPv4 or IPv6 address",
        ),
        ("HostEndpoint", "e", host.clone(), json!({ "interfaceName": "a-name-too-long-" }), "may not be more than 15"),
        (
            "HostEndpoint",
            "e",
            host,
            json!({ "ports": [{ "name": "a", "protocol": "TCP", "port": 0 }] }),
            "should be greater than or equal to 1",
        ),
        felix(
            json!({ "defaultEndpointToHostAction": "Allow" }),
            "spec.defaultEndpointToHostAction in body should match",
        ),
        felix(json!({ "iptablesFilterDenyAction": "Allow" }), "spec.iptablesFilterDenyAction in body should match"),
        felix(json!({ "failsafeInboundHostPorts": [{ "port": 65536 }] }), "should be less than or equal to 65535"),
        felix(json!({ "failsafeOutboundHostPorts": [{ "port": 1, "net": "x" }] }), "must be a network such as"),
    ]
}

fn pools() -> Vec<Refused> {
    let pool = |good, over, said| ("IPPool", "p", good, over, said);
    let v4 = json!({ "cidr": "10.9.0.0/16" });
    vec![
        pool(v4.clone(), json!({ "cidr": "10.9.0.1/16" }), "must be a network without host bits, such as 10.0.0.0/16"),
        pool(v4.clone(), json!({ "cidr": "10.9.0.0" }), "must be a network without host bits"),
        pool(v4.clone(), json!({ "blockSize": 19 }), "blockSize is 20 to 32 for IPv4, 116 to 128 for IPv6"),
        pool(json!({ "cidr": "fd00::/64" }), json!({ "blockSize": 26 }), "blockSize is 20 to 32 for IPv4"),
        pool(v4.clone(), json!({ "cidr": "10.9.0.0/27" }), "one block of blockSize must fit into the pool's network"),
        pool(
            v4.clone(),
            json!({ "ipipMode": "Always", "vxlanMode": "Always" }),
            "ipipMode and vxlanMode cannot both wrap",
        ),
        pool(
            json!({ "cidr": "10.9.0.0/16", "allowedUses": ["LoadBalancer"] }),
            json!({ "allowedUses": ["LoadBalancer", "Workload"] }),
            "LoadBalancer is a use of its own: pods and services do not share a pool",
        ),
        pool(
            v4.clone(),
            json!({ "allowedUses": ["Pods"] }),
            "supported values: \"Workload\", \"Tunnel\", \"LoadBalancer\"",
        ),
        pool(v4, json!({ "assignmentMode": "Never" }), "supported values: \"Automatic\", \"Manual\""),
    ]
}

fn blocks() -> Vec<Refused> {
    let block = json!({ "cidr": "10.9.0.0/31", "allocations": [null, null], "unallocated": [0, 1] });
    let affinity = json!({ "cidr": "10.9.0.0/31", "node": "a", "state": "pending" });
    vec![
        ("IPAMBlock", "b", block.clone(), json!({ "allocations": ["a", null] }), "must be of type integer"),
        ("IPAMBlock", "b", block, json!({ "unallocated": null }), "spec.unallocated: Required value"),
        ("BlockAffinity", "a", affinity, json!({ "state": "lost" }), "supported values: \"pending\""),
        (
            "IPAMHandle",
            "h",
            json!({ "handleID": "h", "block": {} }),
            json!({ "block": { "10.0.0.0/31": "two" } }),
            "must be of type integer",
        ),
    ]
}

fn questions() -> Vec<Refused> {
    let question = |over, said| {
        let good = json!({ "node": "a", "classes": ["BGP"], "updatePeriodSeconds": 86_400 });
        ("CalicoNodeStatus", "n", good, over, said)
    };
    vec![
        question(json!({ "classes": ["bgp"] }), "supported values: \"Agent\", \"BGP\", \"Routes\""),
        question(json!({ "classes": ["BGP", "BGP"] }), "Duplicate value"),
        question(json!({ "classes": null }), "spec.classes: Required value"),
        question(json!({ "node": null }), "spec.node: Required value"),
        question(json!({ "updatePeriodSeconds": 86_401 }), "should be less than or equal to 86400"),
        question(json!({ "updatePeriodSeconds": null }), "spec.updatePeriodSeconds: Required value"),
    ]
}

#[test]
fn what_calico_would_refuse_is_refused_with_a_sentence() -> Result<()> {
    let cluster = cluster()?;
    let tried = |object: &Value| {
        cluster.kubectl(&["create", "--dry-run=server", "--validate=ignore", "-f", "-"], &object.to_string())
    };
    let all = [tiers(), ends(), parts_of_rules(), policies(), hosts(), pools(), blocks(), questions()];
    let all: Vec<_> = all.into_iter().flatten().collect();
    for (kind, name, good, over, said) in &all {
        tried(&object(kind, name, good.clone())).with_context(|| format!("{kind} {good}"))?;
        let bad = merged(good, over);
        match tried(&object(kind, name, bad.clone())) {
            Ok(_) => anyhow::bail!("{kind} {bad} is taken; expected {said}"),
            Err(error) => ensure!(format!("{error:#}").contains(said), "{kind} {bad}: expected {said}, got {error:#}"),
        }
    }
    for name in ["two.parts", &"a".repeat(64)] {
        let error = tried(&object("Tier", name, json!({}))).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains("the name of a tier has no dots and at most 63 characters"), "{name}: {error}");
    }
    let elsewhere = ["the name of a tier", "the network of a pool cannot", "the block size of a pool cannot"];
    for sentence in sentences(&cluster)? {
        let is_tried = all.iter().any(|(.., said)| sentence.contains(said))
            || elsewhere.iter().any(|said| sentence.starts_with(said));
        ensure!(is_tried, "no object here meets {sentence:?}");
    }
    Ok(())
}

/// What the definitions on the server may say.
fn sentences(cluster: &Cluster) -> Result<Vec<String>> {
    fn gather(value: &Value, into: &mut Vec<String>) {
        let Value::Object(fields) = value else {
            return value.as_array().into_iter().flatten().for_each(|part| gather(part, into));
        };
        for (key, part) in fields {
            match part.as_array().filter(|_| key == "x-kubernetes-validations") {
                Some(checks) => {
                    into.extend(checks.iter().filter_map(|check| check["message"].as_str()).map(str::to_owned))
                }
                None => gather(part, into),
            }
        }
    }
    let mut found = Vec::new();
    gather(&cluster.get(&["crd"])?, &mut found);
    ensure!(!found.is_empty(), "the server has no checks");
    found.sort();
    found.dedup();
    Ok(found)
}

#[test]
fn network_and_block_size_of_a_pool_stay_and_the_rest_of_it_changes() -> Result<()> {
    let cluster = cluster()?;
    let pool = |spec: Value| object("IPPool", "p", spec).to_string();
    let apply = |text: &str| cluster.kubectl(&["apply", "-f", "-"], text);
    apply(&pool(json!({ "cidr": "10.9.0.0/16", "blockSize": 26 })))?;
    for (spec, said) in [
        (json!({ "cidr": "10.8.0.0/16", "blockSize": 26 }), "the network of a pool cannot change"),
        (json!({ "cidr": "10.9.0.0/16", "blockSize": 28 }), "the block size of a pool cannot change"),
    ] {
        let error = apply(&pool(spec)).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains(said), "expected {said}, got {error}");
    }
    apply(&pool(json!({ "cidr": "10.9.0.0/16", "blockSize": 26, "disabled": true }))).map(drop)
}
