//! The network configuration on standard input.
//! In: bytes. Out: what this program needs of them, checked.
//! Invariant: keys of Calico's and of the runtime that mean nothing here are passed over.
//! Never: fills in an `ipam` that was not asked for.

use crate::{
    client::DEFAULT_SOCKET,
    environment::is_name,
    failure::{Code, Failure},
    ipam::{Ipam, RawIpam, ipam_of, nodes_own},
    readiness::Gate,
};
use model::{Cidr, Family, HostPort, Labels, Mac, Protocol};
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A CNI specification version that is spoken here, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.1.0: one address a family, no interfaces.
    V0_1_0,
    /// 0.2.0: the same.
    V0_2_0,
    /// 0.3.0: interfaces, `prevResult`.
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: no `version` in `ips`.
    V1_0_0,
    /// 1.1.0: GC, STATUS, `mtu`.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of this text, if it is spoken. None at all means the oldest (CNI-8).
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::V0_1_0);
        }
        Self::ALL.into_iter().find(|version| version.text() == text)
    }
}

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// Version of the result.
    pub version: Version,
    /// The network.
    pub network: String,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// Who gives addresses.
    pub ipam: Ipam,
    /// Families of which another plugin is to give them out of the node's own network (`usePodCidr`).
    pub pod_cidrs: Vec<Family>,
    /// Destinations of the pod's routes (`ipam.routes`); none of a family: everything.
    pub routes: Vec<Cidr>,
    /// `dns`, as it is written.
    pub dns: Option<serde_json::Value>,
    /// MTU, if one is prescribed.
    pub mtu: Option<u32>,
    /// MAC for the pod's side (`runtimeConfig.mac`), if one is prescribed.
    pub mac: Option<Mac>,
    /// Ports of the node that lead to the pod (`runtimeConfig.portMappings`).
    pub host_ports: Vec<HostPort>,
    /// Labels for a pod that no manifest describes (`args.cni.labels`).
    pub labels: Labels,
    /// The pod may forward packets (`container_settings.allow_ip_forwarding`).
    pub forwarding: bool,
    /// It may ask for floating addresses (`feature_control.floating_ips`).
    pub floating_ips: bool,
    /// It may name addresses that nobody gives (`feature_control.ip_addrs_no_ipam`).
    pub ip_addrs_no_ipam: bool,
    /// Who has to answer before a pod is attached (`readiness_gates`).
    pub gates: Vec<Gate>,
    /// For the whole command.
    pub timeout: Duration,
    /// CHECK and DEL: what ADD answered. ADD: what the plugins before this one did.
    pub previous: Option<serde_json::Value>,
    /// GC: (container, interface) of the attachments that are valid.
    pub valid: Option<Vec<(String, String)>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    name: String,
    socket: Option<PathBuf>,
    mtu: Option<u32>,
    ipam: Option<RawIpam>,
    dns: Option<serde_json::Value>,
    #[serde(default)]
    args: RawArgs,
    #[serde(default, rename = "container_settings")]
    container_settings: RawContainerSettings,
    #[serde(default, rename = "feature_control")]
    feature_control: RawFeatureControl,
    #[serde(default)]
    runtime_config: RawRuntimeConfig,
    #[serde(rename = "readiness_gates")]
    readiness_gates: Option<Vec<String>>,
    timeout_seconds: Option<u64>,
    prev_result: Option<serde_json::Value>,
    // The name the specification gives, and the older one that runtimes send beside it (CNI-60).
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<RawAttachment>>,
}

#[derive(Default, Deserialize)]
struct RawArgs {
    #[serde(default)]
    cni: RawCniArgs,
}

#[derive(Default, Deserialize)]
struct RawCniArgs {
    #[serde(default)]
    labels: RawLabels,
}

/// A list as the CNI conventions have it, or a plain map.
#[derive(Deserialize)]
#[serde(untagged, expecting = "args.cni.labels is neither [{\"key\": .., \"value\": ..}] nor {key: value}")]
enum RawLabels {
    List(Vec<RawLabel>),
    Map(BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct RawLabel {
    key: String,
    value: String,
}

#[derive(Default, Deserialize)]
struct RawContainerSettings {
    #[serde(default)]
    allow_ip_forwarding: bool,
}

#[derive(Default, Deserialize)]
struct RawFeatureControl {
    #[serde(default)]
    floating_ips: bool,
    #[serde(default)]
    ip_addrs_no_ipam: bool,
}

#[derive(Default, Deserialize)]
struct RawRuntimeConfig {
    mac: Option<String>,
    #[serde(default)]
    ips: Vec<String>,
    // A runtime that has none may say null (CNI-90).
    #[serde(rename = "portMappings")]
    port_mappings: Option<Vec<RawPortMapping>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPortMapping {
    #[serde(default)]
    host_port: i64,
    #[serde(default)]
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

impl Default for RawLabels {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// The `cniVersion` that was written, empty where none was; `None`: the input is not JSON.
#[must_use]
pub fn written_version(input: &[u8]) -> Option<String> {
    serde_json::from_slice(input).ok().as_ref().map(version_text)
}

/// What is no text is shown as it is: no version looks like that.
fn version_text(value: &serde_json::Value) -> String {
    match value.get("cniVersion") {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

impl Conf {
    /// Reads standard input.
    ///
    /// # Errors
    /// Code 6 where it is not JSON, 7 where it cannot be used, 1 where its version is not spoken here.
    pub fn read(input: &[u8]) -> Result<Self, Failure> {
        let value: serde_json::Value = serde_json::from_slice(input)
            .map_err(|error| Failure::new(Code::DECODE, format!("network configuration on standard input: {error}")))?;
        let written = version_text(&value);
        let pod_cidrs = nodes_own(&value);
        let raw: Raw = serde_json::from_value(value).map_err(|error| unusable("?", &error.to_string()))?;
        if !is_name(&raw.name) {
            return Err(unusable(&raw.name, "\"name\" is missing or is not letters, digits, `_`, `.`, `-`"));
        }
        let version = Version::of(&written).ok_or_else(|| incompatible(&written))?;
        let named = |(code, reason)| Failure::new(code, format!("network configuration {:?}: {reason}", raw.name));
        Ok(Self {
            version,
            gates: raw
                .readiness_gates
                .iter()
                .flatten()
                .map(|url| Gate::of(url))
                .collect::<Result<_, _>>()
                .map_err(named)?,
            ipam: ipam_of(raw.ipam.as_ref(), &raw.runtime_config.ips).map_err(named)?,
            pod_cidrs,
            routes: raw.ipam.iter().flat_map(RawIpam::routes).collect(),
            dns: raw.dns.clone().filter(serde_json::Value::is_object),
            mtu: mtu_of(&raw)?,
            mac: mac_of(&raw)?,
            host_ports: host_ports_of(&raw)?,
            labels: labels_of(raw.args.cni.labels),
            network: raw.name,
            socket: raw.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            forwarding: raw.container_settings.allow_ip_forwarding,
            floating_ips: raw.feature_control.floating_ips,
            ip_addrs_no_ipam: raw.feature_control.ip_addrs_no_ipam,
            timeout: raw.timeout_seconds.filter(|seconds| *seconds > 0).map_or(DEFAULT_TIMEOUT, Duration::from_secs),
            previous: raw.prev_result.filter(|result| !result.is_null()),
            valid: raw.valid_attachments.or(raw.attachments).map(pairs),
        })
    }
}

fn unusable(network: &str, reason: &str) -> Failure {
    Failure::new(Code::CONFIGURATION, format!("network configuration {network:?}: {reason}"))
}

fn incompatible(written: &str) -> Failure {
    let spoken = Version::ALL.map(Version::text).join(", ");
    let message =
        format!("incompatible CNI versions: the configuration's cniVersion is {written:?}, spoken are {spoken}");
    Failure::new(Code::VERSION, message)
}

/// Calico's 0 means "as the agent chooses". Below 68 the kernel carries no IPv4.
fn mtu_of(raw: &Raw) -> Result<Option<u32>, Failure> {
    match raw.mtu {
        None | Some(0) => Ok(None),
        Some(mtu @ 68..=65535) => Ok(Some(mtu)),
        Some(mtu) => Err(unusable(&raw.name, &format!("mtu {mtu} is not between 68 and 65535"))),
    }
}

fn mac_of(raw: &Raw) -> Result<Option<Mac>, Failure> {
    let Some(text) = raw.runtime_config.mac.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let mac: Mac = text.parse().map_err(|error: model::net::InvalidNet| unusable(&raw.name, &error.to_string()))?;
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(unusable(&raw.name, &format!("runtimeConfig.mac {mac} is not the address of one interface")));
    }
    Ok(Some(mac))
}

/// One without a port of the node is none. What is written twice is one, and no packet may be for two.
fn host_ports_of(raw: &Raw) -> Result<Vec<HostPort>, Failure> {
    let mut found: Vec<HostPort> = Vec::new();
    let written = raw.runtime_config.port_mappings.iter().flatten().filter(|mapping| mapping.host_port != 0);
    for mapping in written {
        let port = host_port(mapping)
            .map_err(|reason| unusable(&raw.name, &format!("runtimeConfig.portMappings: {reason}")))?;
        if let Some(known) = found.iter().find(|known| known.meets(&port) && **known != port) {
            let reason = format!("runtimeConfig.portMappings: {port} and {known} cannot both be had");
            return Err(unusable(&raw.name, &reason));
        }
        if !found.contains(&port) {
            found.push(port);
        }
    }
    Ok(found)
}

fn host_port(mapping: &RawPortMapping) -> Result<HostPort, String> {
    let RawPortMapping { host_port, container_port, protocol, host_ip } = mapping;
    let port = |name, number: i64| {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("{name} {number} is not between 1 and 65535"))
    };
    // CRI has TCP where nothing is said.
    let protocol = if protocol.is_empty() { Ok(Protocol::TCP) } else { protocol.parse() };
    let protocol = protocol.ok().filter(|own| [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(own));
    let address = if host_ip.is_empty() { Ok(None) } else { host_ip.parse().map(Some) };
    Ok(HostPort {
        address: address.map_err(|_| format!("hostIP {host_ip:?} is no address"))?,
        protocol: protocol.ok_or_else(|| format!("protocol {:?} is not tcp, udp or sctp", mapping.protocol))?,
        port: port("hostPort", *host_port)?,
        target: port("containerPort", *container_port)?,
    })
}

fn labels_of(raw: RawLabels) -> Labels {
    match raw {
        RawLabels::Map(map) => map.into_iter().collect(),
        RawLabels::List(list) => list.into_iter().map(|label| (label.key, label.value)).collect(),
    }
}

fn pairs(attachments: Vec<RawAttachment>) -> Vec<(String, String)> {
    attachments.into_iter().map(|attachment| (attachment.container, attachment.ifname)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::Asked;
    use serde_json::json;

    fn read(more: serde_json::Value) -> Result<Conf, Failure> {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "tortie-cni", "ipam": {"type": "tortie"}});
        let more = more.as_object().expect("an object").clone();
        conf.as_object_mut().expect("an object").extend(more);
        Conf::read(conf.to_string().as_bytes())
    }

    fn code(more: serde_json::Value) -> u32 {
        read(more).expect_err("cannot be used").code.0
    }

    #[test]
    fn a_bare_configuration_gets_the_defaults() {
        let conf = read(json!({})).expect("good");
        assert_eq!((conf.socket.to_str(), conf.mtu), (Some("/run/tortie/tortie.sock"), None));
        assert_eq!((conf.timeout, conf.valid), (Duration::from_secs(30), None));
    }

    #[test]
    fn cni_8_an_error_is_written_in_the_version_that_the_configuration_is_read_in() {
        let none = json!({"name": "net", "ipam": {"type": "tortie"}}).to_string();
        assert_eq!(Conf::read(none.as_bytes()).expect("the oldest").version.text(), "0.1.0");
        assert_eq!(crate::plugin::error_version(none.as_bytes()), "0.1.0");
        assert_eq!(crate::plugin::error_version(b"{"), Version::NEWEST.text());
        assert_eq!(code(json!({"cniVersion": 1})), 1);
    }

    #[test]
    fn cni_5_input_that_is_not_json_is_6_and_a_bad_name_is_7() {
        assert_eq!(Conf::read(b"{").expect_err("torn").code, Code(6));
        for name in [json!(""), json!("-x"), json!("a/b"), json!(7)] {
            assert_eq!(code(json!({ "name": name })), 7);
        }
    }

    #[test]
    fn cni_8_versions_not_spoken_here_are_refused_with_1() {
        for version in ["0.0.1", "0.5.0", "1.2.0", "x"] {
            assert_eq!(code(json!({ "cniVersion": version })), 1, "{version:?}");
        }
        assert_eq!(read(json!({ "cniVersion": "" })).expect("spoken").version, Version::V0_1_0, "none is the oldest");
        for version in Version::ALL {
            assert_eq!(read(json!({ "cniVersion": version.text() })).expect("spoken").version, version);
        }
    }

    #[test]
    fn cni_e7_without_a_usable_ipam_the_message_says_what_to_write() {
        for ipam in [json!(null), json!({}), json!({"type": "../bin/host-local"})] {
            assert_eq!(code(json!({ "ipam": ipam })), 7);
        }
        assert!(read(json!({ "ipam": {} })).expect_err("none").message.contains("\"tortie\""));
        assert_eq!(read(json!({ "ipam": {"type": "static"} })).expect("one").ipam, Ipam::Delegate("static".to_owned()));
    }

    #[test]
    fn cni_e2_an_ipam_that_cannot_work_here_is_named_with_key_and_value() {
        let failure = read(json!({ "ipam": {"type": "dhcp"} })).expect_err("no broadcast domain");
        assert_eq!(failure.code, Code(2));
        assert!(failure.message.contains("ipam.type") && failure.message.contains("dhcp"), "{failure}");
    }

    #[test]
    fn calc_7_the_configuration_names_pools_and_families_in_calicos_words() {
        let asked = |ipam: serde_json::Value| {
            let mut whole = json!({"type": "tortie"});
            whole.as_object_mut().expect("an object").extend(ipam.as_object().expect("an object").clone());
            read(json!({ "ipam": whole }))
        };
        let good = |ipam| match asked(ipam).expect("good").ipam {
            Ipam::Own(Asked { pools, families, .. }) => (pools, families),
            Ipam::Delegate(name) => panic!("{name}"),
        };
        let (pools, families) = good(json!({"ipv4_pools": ["a", "10.66.0.0/16"], "ipv6_pools": ["fd00:66::/64"]}));
        assert_eq!(pools[&Family::V4], ["a", "10.66.0.0/16"]);
        assert_eq!((&*pools[&Family::V6], families), (&["fd00:66::/64".to_owned()][..], vec![]));
        for (ipam, expected) in [
            (json!({"assign_ipv4": "true", "assign_ipv6": "true"}), &[Family::V4, Family::V6][..]),
            (json!({"assign_ipv4": "false", "assign_ipv6": "true"}), &[Family::V6]),
            (json!({"assign_ipv6": true}), &[Family::V4, Family::V6]),
            (json!({"assign_ipv4": "true"}), &[Family::V4]),
            (json!({"ipv4_pools": [], "assign_ipv6": "false"}), &[Family::V4]),
            (json!({}), &[]),
        ] {
            assert_eq!(good(ipam.clone()), (BTreeMap::new(), expected.to_vec()), "{ipam}");
        }
        for (said, ipam) in [
            ("leave a pod no address", json!({"assign_ipv4": "false"})),
            ("ipam.assign_ipv4", json!({"assign_ipv4": "yes"})),
            ("ipam.ipv4_pools: fd00::/64 is of the other family", json!({"ipv4_pools": ["fd00::/64"]})),
            ("expected a string", json!({"ipv4_pools": [7]})),
        ] {
            let failure = asked(ipam).expect_err(said);
            assert!(failure.code == Code(7) && failure.message.contains(said), "{failure}");
        }
    }

    #[test]
    fn cni_94_addresses_are_asked_for_with_or_without_a_prefix_and_one_of_a_family() {
        let ips = |ips: &[&str]| json!({"runtimeConfig": {"ips": ips}});
        let two = vec!["10.65.0.7".parse().expect("one"), "fd00::7".parse().expect("one")];
        let two = Ipam::Own(Asked { ips: two, ..Asked::default() });
        assert_eq!(read(ips(&["10.65.0.7/24", "fd00::7"])).expect("good").ipam, two);
        for bad in [&["10.65.0.7", "10.65.0.8"][..], &["10.65.0"], &[""]] {
            assert_eq!(code(ips(bad)), 7, "{bad:?}");
        }
    }

    #[test]
    fn cni_90_port_mappings_are_read_as_runtimes_write_them() {
        let ports = |mappings: serde_json::Value| read(json!({"runtimeConfig": {"portMappings": mappings}}));
        let read = ports(json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 8080, "containerPort": 80},
            {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"},
            {"hostPort": 53, "containerPort": 5354, "protocol": "UDP", "hostIP": "2001:db8::1"},
            {"hostPort": 9, "containerPort": 9, "protocol": "sctp", "hostIP": "::"},
            {"hostPort": 0, "containerPort": 81, "protocol": "TCP"}, {"containerPort": 82}]));
        let read = read.expect("good").host_ports;
        let shown = |port: &HostPort| format!("{port} to {}", port.target);
        assert_eq!(
            read.iter().map(shown).collect::<Vec<_>>(),
            ["8080/TCP to 80", "192.0.2.1:53/UDP to 5353", "[2001:db8::1]:53/UDP to 5354", "[::]:9/SCTP to 9"]
        );
        assert_eq!(ports(json!(null)).expect("none").host_ports, []);
        for (part, mappings) in [
            ("containerPort 0", json!([{"hostPort": 80}])),
            ("containerPort 65536", json!([{"hostPort": 80, "containerPort": 65536}])),
            ("hostPort -1", json!([{"hostPort": -1, "containerPort": 80}])),
            ("\"icmp\"", json!([{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}])),
            ("\"here\"", json!([{"hostPort": 80, "containerPort": 80, "hostIP": "here"}])),
            (
                "0.0.0.0:80/TCP and 80/TCP",
                json!([{"hostPort": 80, "containerPort": 80},
                {"hostPort": 80, "containerPort": 81, "hostIP": "0.0.0.0"}]),
            ),
        ] {
            let failure = ports(mappings).expect_err(part);
            assert!(failure.code == Code(7) && failure.message.contains(part), "{failure}");
        }
    }

    #[test]
    fn cni_91_to_93_and_96_97_capabilities_of_others_are_passed_over() {
        let conf = json!({"capabilities": {"aliases": true}, "runtimeConfig": {
            "ipRanges": [[{"subnet": "10.1.0.0/16"}]], "bandwidth": {"ingressRate": 1},
            "dns": {"servers": ["10.0.0.10"], "searches": ["x"], "options": []},
            "infinibandGUID": "c2:11:22:33:44:55:66:77", "deviceID": "0000:00:1f.6", "aliases": ["web"],
            "cgroupPath": "/kubelet/x"}});
        assert_eq!(read(conf).expect("good"), read(json!({})).expect("good"));
    }

    #[test]
    fn spf_4_floating_addresses_may_be_asked_for_where_the_configuration_says_so() {
        let may = |more| read(more).expect("good").floating_ips;
        assert!(may(json!({"feature_control": {"floating_ips": true, "ip_addrs_no_ipam": true}})));
        assert!(!may(json!({"feature_control": {"ip_addrs_no_ipam": true}})) && !may(json!({})));
        assert_eq!(code(json!({"feature_control": {"floating_ips": "yes"}})), 7);
    }

    #[test]
    fn labels_come_as_a_list_or_as_a_map() {
        let list = json!({"args": {"cni": {"labels": [{"key": "app", "value": "web"}]}}});
        let map = json!({"args": {"cni": {"labels": {"app": "web"}}}});
        assert_eq!(read(list).expect("good").labels, read(map).expect("good").labels);
        assert_eq!(code(json!({"args": {"cni": {"labels": "app=web"}}})), 7);
    }

    #[test]
    fn calc_5_and_cni_85_calicos_keys_mean_what_they_mean_there_and_others_are_passed_over() {
        let conf = json!({"mtu": 1400, "container_settings": {"allow_ip_forwarding": true}, "log_level": "info",
            "datastore_type": "kubernetes", "policy": {"type": "k8s"}, "cniVersions": ["1.0.0", "1.1.0"],
            "nodename": "n1", "hostname": "n2", "nodename_file_optional": false, "readiness_gates": null,
            "policy_setup_timeout_seconds": 10, "endpoint_status_dir": "/var/run/calico/endpoint-status"});
        let conf = read(conf).expect("good");
        assert_eq!((conf.mtu, conf.forwarding), (Some(1400), true));
        assert_eq!(read(json!({"mtu": 0})).expect("good").mtu, None);
        assert_eq!(code(json!({"mtu": 67})), 7);
    }

    #[test]
    fn cni_95_a_mac_that_cannot_be_one_interfaces_is_refused() {
        let mac = |text: &str| json!({"runtimeConfig": {"mac": text}});
        assert_eq!(read(mac("0a:58:0a:00:00:01")).expect("good").mac, Some(Mac([0x0a, 0x58, 0x0a, 0, 0, 1])));
        for bad in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "0a:58"] {
            assert_eq!(code(mac(bad)), 7, "{bad}");
        }
    }

    #[test]
    fn cni_60_either_key_lists_the_valid_attachments() {
        let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
        let expected = Some(vec![("c1".to_owned(), "eth0".to_owned())]);
        assert_eq!(read(json!({"cni.dev/valid-attachments": list})).expect("good").valid, expected);
        assert_eq!(read(json!({"cni.dev/attachments": list})).expect("good").valid, expected);
        assert_eq!(read(json!({"cni.dev/valid-attachments": null})).expect("good").valid, None);
    }
}
