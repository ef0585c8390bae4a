//! BGPConfiguration.
//! In: Calico's BGPConfiguration (api/pkg/apis/projectcalico/v3/bgpconfig.go). Out: [`model::BgpConfiguration`].
//! Invariant: a field that is served is understood, or the object is refused and its last good revision holds.
//! Never: a password; it says where one is.

use super::super::{
    duration::duration,
    field::{InvalidField, Meta, read},
};
use crate::crds::shapes;
use model::{AsNumber, BgpConfiguration, BgpLog, Cidr, Community, SecretKey};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// How nodes speak BGP.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    /// How much of BGP is logged.
    #[schemars(extend("pattern" = "^(?i)(Trace|Debug|Info|Warning|Error|Fatal)?$"))]
    log_severity_screen: Option<String>,
    /// Whether all nodes speak with all others.
    node_to_node_mesh_enabled: Option<bool>,
    /// The AS of nodes that do not say theirs; 64512, if nothing stands here.
    #[schemars(with = "Option<shapes::AsNumber>")]
    as_number: Option<Value>,
    /// Networks of load balancers' addresses, which nodes tell.
    #[serde(rename = "serviceLoadBalancerIPs")]
    service_load_balancer_ips: Option<Vec<Block>>,
    /// Networks of services' external addresses.
    #[serde(rename = "serviceExternalIPs")]
    service_external_ips: Option<Vec<Block>>,
    /// Networks of services' own addresses.
    #[serde(rename = "serviceClusterIPs")]
    service_cluster_ips: Option<Vec<Block>>,
    /// Disabled: each address of a load balancer is told, and not their networks.
    #[schemars(extend("enum" = ["Enabled", "Disabled", ""]))]
    service_load_balancer_aggregation: Option<String>,
    /// Names for communities.
    #[schemars(length(max = 500))]
    communities: Option<Vec<Named>>,
    /// Which communities go with which network.
    #[schemars(length(max = 500))]
    prefix_advertisements: Option<Vec<Advertisement>>,
    /// The port at which nodes are spoken to; 179, if nothing stands here.
    #[schemars(range(min = 1, max = 65535))]
    listen_port: Option<u16>,
    /// Where the password of the mesh is.
    node_mesh_password: Option<Password>,
    /// How long a node of the mesh may take to start anew, such as 120s.
    node_mesh_max_restart_time: Option<String>,
    /// NodeIP: nodes are spoken to at their own address alone.
    #[schemars(extend("enum" = ["None", "NodeIP", ""]))]
    bind_mode: Option<String>,
    /// Interfaces whose networks are not looked at.
    ignored_interfaces: Option<Vec<String>>,
    /// Which routes are written to the kernel.
    #[schemars(extend("enum" = ["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"]))]
    program_cluster_routes: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Block {
    /// A network.
    cidr: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Named {
    /// The name.
    name: String,
    /// aa:nn or aa:nn:mm.
    value: String,
}

#[derive(Deserialize, JsonSchema)]
struct Advertisement {
    /// The network.
    cidr: String,
    /// Names, or values.
    #[schemars(length(max = 50))]
    communities: Option<Vec<String>>,
}

/// A key of a Secret.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Password {
    /// The Secret, and the key in it.
    secret_key_ref: Option<KeyRef>,
}

#[derive(Deserialize, JsonSchema)]
struct KeyRef {
    /// The Secret's name.
    name: String,
    /// The key in it.
    key: String,
}

const SERVED: [&str; 15] = [
    "logSeverityScreen",
    "nodeToNodeMeshEnabled",
    "asNumber",
    "serviceLoadBalancerIPs",
    "serviceExternalIPs",
    "serviceClusterIPs",
    "serviceLoadBalancerAggregation",
    "communities",
    "prefixAdvertisements",
    "listenPort",
    "nodeMeshPassword",
    "nodeMeshMaxRestartTime",
    "bindMode",
    "ignoredInterfaces",
    "programClusterRoutes",
];

pub(in super::super) fn convert(
    meta: &Meta,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<BgpConfiguration, InvalidField> {
    let said: Map<String, Value> = read("spec", object)?;
    let spec: Spec = read("spec", object)?;
    let others: Vec<_> = said.keys().filter(|name| !SERVED.contains(&name.as_str())).cloned().collect();
    if !others.is_empty() {
        let reason = format!("{} are not served; what stands there changes nothing here", others.join(", "));
        unreadable.push(InvalidField::new("spec", reason));
    }
    let routes = spec.program_cluster_routes.as_deref().unwrap_or("EnabledNoEncapOnly");
    if ["Enabled", "EnabledIPIPOnly"].contains(&routes) {
        let reason = "the agent itself makes routes of pools that are wrapped, never BIRD";
        unreadable.push(InvalidField::new("spec.programClusterRoutes", reason));
    }
    let restart = spec.node_mesh_max_restart_time.map(Value::from);
    Ok(BgpConfiguration {
        name: meta.name.clone(),
        mesh: spec.node_to_node_mesh_enabled,
        as_number: spec.as_number.map(|value| as_number("spec.asNumber", &value)).transpose()?,
        listen_port: spec.listen_port.filter(|port| *port != 0),
        binds: spec.bind_mode.as_deref() == Some("NodeIP"),
        mesh_password: secret("spec.nodeMeshPassword", spec.node_mesh_password)?,
        mesh_restart: seconds("spec.nodeMeshMaxRestartTime", restart.as_ref())?,
        log: spec.log_severity_screen.as_deref().and_then(log),
        ignored_interfaces: spec.ignored_interfaces.unwrap_or_default(),
        cluster_ips: blocks("spec.serviceClusterIPs", spec.service_cluster_ips)?,
        external_ips: blocks("spec.serviceExternalIPs", spec.service_external_ips)?,
        load_balancer_ips: blocks("spec.serviceLoadBalancerIPs", spec.service_load_balancer_ips)?,
        aggregates: match spec.service_load_balancer_aggregation.as_deref() {
            Some("Disabled") => Some(false),
            Some("Enabled") => Some(true),
            _ => None,
        },
        advertisements: advertisements(spec.communities, spec.prefix_advertisements)?,
        programs_unwrapped: Some(!["Disabled", "EnabledIPIPOnly"].contains(&routes)),
    })
}

fn log(level: &str) -> Option<BgpLog> {
    Some(match level.to_ascii_lowercase().as_str() {
        "trace" | "debug" => BgpLog::All,
        "info" => BgpLog::States,
        "warning" | "error" | "fatal" => BgpLog::Quiet,
        _ => return None,
    })
}

/// A number, or text.
pub(super) fn as_number(path: &str, value: &Value) -> Result<AsNumber, InvalidField> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().map_err(|expected| InvalidField::new(path, format!("{value} is not {expected}")))
}

pub(super) fn community(path: &str, text: &str) -> Result<Community, InvalidField> {
    text.parse().map_err(|expected| InvalidField::new(path, format!("{text:?} is not {expected}")))
}

pub(super) fn seconds(path: &str, value: Option<&Value>) -> Result<Option<u32>, InvalidField> {
    let read = |value| Ok(u32::try_from(duration(path, value)?.as_millis().div_ceil(1000)).unwrap_or(u32::MAX));
    value.map(read).transpose()
}

/// The agent looks for it as a file of these names.
pub(super) fn secret(path: &str, password: Option<Password>) -> Result<Option<SecretKey>, InvalidField> {
    let Some(password) = password else { return Ok(None) };
    let Some(KeyRef { name, key }) = password.secret_key_ref else {
        return Err(InvalidField::new(path, "has no secretKeyRef"));
    };
    let is_plain = |text: &str| {
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        !text.is_empty() && !text.starts_with('.') && text.chars().all(is_allowed)
    };
    if !is_plain(&name) || !is_plain(&key) {
        return Err(InvalidField::new(
            &format!("{path}.secretKeyRef"),
            "name and key are letters, digits, '-', '_' and '.'",
        ));
    }
    Ok(Some(SecretKey { name, key }))
}

pub(super) fn net(path: &str, text: &str) -> Result<Cidr, InvalidField> {
    text.parse().map_err(|error| InvalidField::new(path, error))
}

fn blocks(path: &str, blocks: Option<Vec<Block>>) -> Result<Vec<Cidr>, InvalidField> {
    let written = blocks.unwrap_or_default().into_iter().enumerate();
    let written = written.filter_map(|(index, block)| Some((index, block.cidr.filter(|cidr| !cidr.is_empty())?)));
    written.map(|(index, cidr)| net(&format!("{path}[{index}].cidr"), &cidr)).collect()
}

fn advertisements(
    named: Option<Vec<Named>>,
    advertised: Option<Vec<Advertisement>>,
) -> Result<Vec<(Cidr, Vec<Community>)>, InvalidField> {
    let named: BTreeMap<String, String> =
        named.unwrap_or_default().into_iter().map(|named| (named.name, named.value)).collect();
    let read = |(index, advertised): (usize, Advertisement)| {
        let path = format!("spec.prefixAdvertisements[{index}]");
        let value = |text: &String| community(&format!("{path}.communities"), named.get(text).unwrap_or(text));
        let communities = advertised.communities.unwrap_or_default().iter().map(value).collect::<Result<_, _>>()?;
        Ok((net(&format!("{path}.cidr"), &advertised.cidr)?, communities))
    };
    advertised.unwrap_or_default().into_iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{known, refusal};
    use super::*;
    use model::Resource;

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {{name: default}}, spec: {spec}}}"
        )
    }

    fn read(spec: &str) -> (BgpConfiguration, Vec<String>) {
        match known(&text(spec)) {
            (Resource::BgpConfiguration(found), unreadable) => (*found, unreadable),
            (other, _) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_configuration_says_is_read_and_what_is_not_served_is_named() {
        let (found, unreadable) = read(
            "{nodeToNodeMeshEnabled: false, asNumber: '1.10', listenPort: 1790, bindMode: NodeIP, logSeverityScreen: Debug,
              nodeMeshMaxRestartTime: 90s, nodeMeshPassword: {secretKeyRef: {name: bgp, key: mesh}}, ignoredInterfaces: [docker0],
              serviceClusterIPs: [{cidr: 10.96.0.0/12}], serviceExternalIPs: [{cidr: 203.0.113.0/24}],
              serviceLoadBalancerIPs: [{cidr: 'fd00:9::/112'}], serviceLoadBalancerAggregation: Disabled,
              communities: [{name: near, value: '64512:7'}],
              prefixAdvertisements: [{cidr: 10.65.0.0/16, communities: [near, '1:2:3']}], localWorkloadPeeringIPV4: 169.254.1.1}",
        );
        assert_eq!((found.mesh, found.as_number, found.listen_port), (Some(false), Some(AsNumber(65546)), Some(1790)));
        assert_eq!((found.binds, found.log, found.mesh_restart), (true, Some(BgpLog::All), Some(90)));
        assert_eq!(found.mesh_password, Some(SecretKey { name: "bgp".into(), key: "mesh".into() }));
        assert_eq!((found.aggregates, found.cluster_ips.len(), found.load_balancer_ips.len()), (Some(false), 1, 1));
        let communities = vec![Community::Standard(64512, 7), Community::Large(1, 2, 3)];
        assert_eq!(found.advertisements, [("10.65.0.0/16".parse().expect("a network"), communities)]);
        assert_eq!(
            unreadable,
            ["spec: localWorkloadPeeringIPV4 are not served; what stands there changes nothing here"]
        );
    }

    #[test]
    fn what_cannot_be_read_refuses_the_object() {
        for (spec, path) in [
            ("{asNumber: none}", "spec.asNumber"),
            ("{serviceClusterIPs: [{cidr: here}]}", "spec.serviceClusterIPs[0].cidr"),
            (
                "{prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [unnamed]}]}",
                "spec.prefixAdvertisements[0].communities",
            ),
            ("{nodeMeshPassword: {secretKeyRef: {name: ../etc, key: a}}}", "spec.nodeMeshPassword.secretKeyRef"),
            ("{nodeMeshMaxRestartTime: soon}", "spec.nodeMeshMaxRestartTime"),
        ] {
            let refused = refusal(&text(spec));
            assert!(refused.starts_with(&format!("{path}: ")), "{refused}");
        }
    }
}
