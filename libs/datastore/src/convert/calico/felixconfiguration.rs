//! FelixConfiguration.
//! In: Calico's FelixConfiguration (api/pkg/apis/projectcalico/v3/felixconfig.go). Out: [`model::FelixConfiguration`].
//! Invariant: a field that is served is understood, or the object is refused and its last good revision holds.
//! Never: keeps quiet about fields that are not served, unless they mean nothing here.

use super::{
    super::{
        duration::duration,
        field::{InvalidField, Meta, read, read_at},
        port,
        service::created,
    },
    entity::net,
    parameters::{self, Standing},
};
use model::{Cidr, DenyAction, EndpointToHost, Failsafe, FelixConfiguration, LogLevel, Protocol, Selector};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::net::Ipv4Addr;

const DENY_ACTION: &str = "iptablesFilterDenyAction";
const TO_HOST: &str = "defaultEndpointToHostAction";
const INBOUND: &str = "failsafeInboundHostPorts";
const OUTBOUND: &str = "failsafeOutboundHostPorts";
const LOCAL_SUBNET: &str = "localSubnetL2Reachability";
const REFRESH: &str = "localSubnetL2ReachabilityRefreshInterval";
const LOG: &str = "logSeverityScreen";
/// Which nodes an object is for: no parameter.
const SELECTOR: &str = "nodeSelector";
const FLOATING: &str = "floatingIPs";
const SPOOFING: &str = "workloadSourceSpoofing";
const NAT_EXCLUSIONS: &str = "natOutgoingExclusions";
const NAT_ADDRESS: &str = "natOutgoingAddress";
const NAT_PORTS: &str = "natPortRange";
const VXLAN_MTU: &str = "vxlanMTU";
const VXLAN_MTU_V6: &str = "vxlanMTUV6";
const IPIP_MTU: &str = "ipipMTU";
const VXLAN_VNI: &str = "vxlanVNI";
const VXLAN_PORT: &str = "vxlanPort";
const VXLAN_ENABLED: &str = "vxlanEnabled";
const IPIP_ENABLED: &str = "ipipEnabled";
const EXTERNAL_NODES: &str = "externalNodesList";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    protocol: Option<String>,
    port: Value,
    net: Option<String>,
}

pub(in super::super) fn convert(
    meta: &Meta,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<FelixConfiguration, InvalidField> {
    let spec: Map<String, Value> = read("spec", object)?;
    let chosen = |name: &str| spec.get(name).filter(|value| !value.is_null());
    let is_for_some = meta.name != FelixConfiguration::DEFAULT && !meta.name.starts_with("node.");
    let felix = FelixConfiguration {
        name: meta.name.clone(),
        deny_action: one_of(DENY_ACTION, chosen(DENY_ACTION), DENY_ACTIONS)?,
        endpoint_to_host: one_of(TO_HOST, chosen(TO_HOST), TO_HOST_ACTIONS)?,
        failsafe_inbound: failsafes(INBOUND, chosen(INBOUND))?,
        failsafe_outbound: failsafes(OUTBOUND, chosen(OUTBOUND))?,
        answers_for_pods: one_of(LOCAL_SUBNET, chosen(LOCAL_SUBNET), LOCAL_SUBNETS)?,
        announces_every: chosen(REFRESH).map(|value| duration(&format!("spec.{REFRESH}"), value)).transpose()?,
        log: one_of(LOG, chosen(LOG), LOG_LEVELS)?,
        selector: if is_for_some { selector(chosen(SELECTOR))? } else { None },
        created: created(object),
        sets: spec.keys().filter(|name| *name != SELECTOR && chosen(name.as_str()).is_some()).cloned().collect(),
        floating_ips: one_of(FLOATING, chosen(FLOATING), SWITCHES)?,
        source_spoofing: one_of(SPOOFING, chosen(SPOOFING), SPOOFINGS)?,
        nat_excludes_nodes: one_of(NAT_EXCLUSIONS, chosen(NAT_EXCLUSIONS), EXCLUSIONS)?,
        nat_address: nat_address(chosen(NAT_ADDRESS))?,
        nat_ports: nat_ports(chosen(NAT_PORTS))?,
        vxlan_mtu: mtu(VXLAN_MTU, chosen(VXLAN_MTU))?,
        vxlan_mtu_v6: mtu(VXLAN_MTU_V6, chosen(VXLAN_MTU_V6))?,
        ipip_mtu: mtu(IPIP_MTU, chosen(IPIP_MTU))?,
        vxlan_vni: number(VXLAN_VNI, chosen(VXLAN_VNI), VNI_MOST)?,
        vxlan_port: number(VXLAN_PORT, chosen(VXLAN_PORT), u16::MAX)?,
        external_nodes: nets(EXTERNAL_NODES, chosen(EXTERNAL_NODES))?,
        vxlan_enabled: switch(VXLAN_ENABLED, chosen(VXLAN_ENABLED))?,
        ipip_enabled: switch(IPIP_ENABLED, chosen(IPIP_ENABLED))?,
    };
    // What means nothing here needs no attention; `tortie node status` has it all.
    let is_told =
        |name: &&String| parameters::of_field(name).is_none_or(|known| known.standing != Standing::Meaningless);
    let others: Vec<_> =
        felix.sets.iter().filter(|name| !SERVED.contains(&name.as_str())).filter(is_told).cloned().collect();
    if !others.is_empty() {
        let reason = format!("{} are not served; what stands there changes nothing here", others.join(", "));
        unreadable.push(InvalidField::new("spec", reason));
    }
    if is_for_some && felix.selector.is_none() {
        let reason = format!(
            "{:?} is neither \"default\" nor \"node.NAME\", and has no nodeSelector: no node reads it",
            felix.name
        );
        unreadable.push(InvalidField::new("metadata.name", reason));
    }
    Ok(felix)
}

const SERVED: [&str; 20] = [
    DENY_ACTION,
    TO_HOST,
    INBOUND,
    OUTBOUND,
    LOCAL_SUBNET,
    REFRESH,
    LOG,
    FLOATING,
    SPOOFING,
    NAT_EXCLUSIONS,
    NAT_ADDRESS,
    NAT_PORTS,
    VXLAN_MTU,
    VXLAN_MTU_V6,
    IPIP_MTU,
    VXLAN_VNI,
    VXLAN_PORT,
    VXLAN_ENABLED,
    IPIP_ENABLED,
    EXTERNAL_NODES,
];
/// What every link has to let pass (RFC 791, RFC 8200).
const IPV4_LEAST: u32 = 68;
const IPV6_LEAST: u32 = 1280;
/// A network of VXLAN has 24 bits.
const VNI_MOST: u32 = (1 << 24) - 1;
const EXCLUSIONS: &[(&str, bool)] = &[("IPPoolsOnly", false), ("IPPoolsAndHostIPs", true)];
const LOG_LEVELS: &[(&str, LogLevel)] = &[
    ("Trace", LogLevel::Trace),
    ("Debug", LogLevel::Debug),
    ("Info", LogLevel::Info),
    ("Warning", LogLevel::Warn),
    ("Error", LogLevel::Error),
    ("Fatal", LogLevel::Error),
];
const LOCAL_SUBNETS: &[(&str, bool)] = &[("Disabled", false), ("PodsAndLoadBalancers", true)];
const SPOOFINGS: &[(&str, bool)] = &[("Disabled", false), ("Any", true)];
const SWITCHES: &[(&str, bool)] = &[("Disabled", false), ("Enabled", true)];
const DENY_ACTIONS: &[(&str, DenyAction)] = &[("Drop", DenyAction::Drop), ("Reject", DenyAction::Reject)];
const TO_HOST_ACTIONS: &[(&str, EndpointToHost)] =
    &[("Drop", EndpointToHost::Drop), ("Return", EndpointToHost::Return), ("Accept", EndpointToHost::Accept)];

/// In any case of letters, as the API takes it; empty is as good as absent.
fn one_of<T: Copy>(field: &str, value: Option<&Value>, known: &[(&str, T)]) -> Result<Option<T>, InvalidField> {
    let Some(value) = value.filter(|value| value.as_str() != Some("")) else { return Ok(None) };
    let is_it = |(name, _): &&(&str, T)| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(name));
    let found = known.iter().find(is_it).map(|(_, action)| *action);
    let names = || known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let wrong = || InvalidField::new(&format!("spec.{field}"), format!("{value} is none of {}", names()));
    found.map(Some).ok_or_else(wrong)
}

/// Empty is as good as absent, as of all that follow.
fn nat_address(value: Option<&Value>) -> Result<Option<Ipv4Addr>, InvalidField> {
    let path = format!("spec.{NAT_ADDRESS}");
    let text = value.map(|value| read_at::<String>(&path, value)).transpose()?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| InvalidField::new(&path, format!("{text:?} is no IPv4 address"))))
        .transpose()
}

/// One port, or `first:last`.
fn nat_ports(value: Option<&Value>) -> Result<Option<(u16, u16)>, InvalidField> {
    let Some(value) = value.filter(|value| value.as_str() != Some("")) else { return Ok(None) };
    let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let (first, last) = text.split_once(':').unwrap_or((&text, &text));
    let ends = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
    let range = ends.filter(|(first, last)| 0 < *first && first <= last);
    let wrong =
        || InvalidField::new(&format!("spec.{NAT_PORTS}"), format!("{value} is no port and no range FIRST:LAST"));
    range.map(Some).ok_or_else(wrong)
}

/// Zero is what the uplink leaves.
fn mtu(field: &str, value: Option<&Value>) -> Result<Option<u32>, InvalidField> {
    let least = if field == VXLAN_MTU_V6 { IPV6_LEAST } else { IPV4_LEAST };
    let path = format!("spec.{field}");
    let Some(value) = value else { return Ok(None) };
    match read_at::<u32>(&path, value)? {
        0 => Ok(None),
        said if (least..=65_535).contains(&said) => Ok(Some(said)),
        said => Err(InvalidField::new(&path, format!("{said} is neither 0 nor between {least} and 65535"))),
    }
}

/// Between 1 and `most`.
fn number<T>(field: &str, value: Option<&Value>, most: T) -> Result<Option<T>, InvalidField>
where
    T: Copy + Into<u64> + TryFrom<u64>,
{
    let path = format!("spec.{field}");
    let Some(value) = value else { return Ok(None) };
    let most: u64 = most.into();
    let known = value.as_u64().filter(|said| (1..=most).contains(said)).and_then(|said| T::try_from(said).ok());
    known.map(Some).ok_or_else(|| InvalidField::new(&path, format!("{value} is not between 1 and {most}")))
}

/// Addresses, and networks.
fn nets(field: &str, value: Option<&Value>) -> Result<Option<Box<[Cidr]>>, InvalidField> {
    let path = format!("spec.{field}");
    let Some(value) = value else { return Ok(None) };
    let texts: Vec<String> = read_at(&path, value)?;
    let nets = texts.iter().enumerate().map(|(index, text)| net(&format!("{path}[{index}]"), text));
    nets.collect::<Result<_, _>>().map(Some)
}

fn switch(field: &str, value: Option<&Value>) -> Result<Option<bool>, InvalidField> {
    value.map(|value| read_at(&format!("spec.{field}"), value)).transpose()
}

/// Empty is as good as absent.
fn selector(value: Option<&Value>) -> Result<Option<Selector>, InvalidField> {
    let text = value.map(|value| read_at::<String>(&format!("spec.{SELECTOR}"), value)).transpose()?;
    let text = text.filter(|text| !text.trim().is_empty());
    text.map(|text| text.parse().map_err(|error| InvalidField::new(&format!("spec.{SELECTOR}"), error))).transpose()
}

/// An empty list is one: no port stays open then.
fn failsafes(field: &str, value: Option<&Value>) -> Result<Option<Vec<Failsafe>>, InvalidField> {
    let path = format!("spec.{field}");
    let Some(value) = value else { return Ok(None) };
    let ports: Vec<Port> = read_at(&path, value)?;
    let ports = ports.iter().enumerate().map(|(index, port)| failsafe(&format!("{path}[{index}]"), port));
    ports.collect::<Result<_, _>>().map(Some)
}

fn failsafe(path: &str, written: &Port) -> Result<Failsafe, InvalidField> {
    let protocol = match written.protocol.as_deref().unwrap_or_default() {
        "" => Protocol::TCP,
        name => [("TCP", Protocol::TCP), ("UDP", Protocol::UDP), ("SCTP", Protocol::SCTP)]
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, protocol)| *protocol)
            .ok_or_else(|| {
                InvalidField::new(&format!("{path}.protocol"), format!("{name:?} is none of TCP, UDP and SCTP"))
            })?,
    };
    let within = written.net.as_deref().filter(|text| !text.is_empty());
    Ok(Failsafe {
        protocol,
        port: port::number(&format!("{path}.port"), &written.port)?,
        net: within.map(|text| net(&format!("{path}.net"), text)).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::tests::{known, refusal},
        *,
    };
    use model::Resource;
    use std::{collections::BTreeSet, time::Duration};

    fn text(name: &str, spec: &str) -> String {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {{name: {name}}}, spec: {spec}}}"
        )
    }

    fn felix(name: &str, spec: &str) -> (FelixConfiguration, Vec<String>) {
        match known(&text(name, spec)) {
            (Resource::FelixConfiguration(felix), unreadable) => (felix, unreadable),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn cal_12_e2h_1_actions_are_read_in_any_case_and_nothing_chosen_is_nothing_chosen() {
        let (found, unreadable) =
            felix("default", "{iptablesFilterDenyAction: REJECT, defaultEndpointToHostAction: return}");
        assert_eq!(
            (found.deny_action, found.endpoint_to_host),
            (Some(DenyAction::Reject), Some(EndpointToHost::Return))
        );
        assert_eq!(unreadable, [""; 0]);
        let (found, _) = felix("node.n1", "{iptablesFilterDenyAction: '', defaultEndpointToHostAction: null}");
        assert_eq!((found.deny_action, found.endpoint_to_host, found.failsafe_inbound), (None, None, None));
        let said = refusal(&text("default", "{defaultEndpointToHostAction: Allow}"));
        assert_eq!(said, "spec.defaultEndpointToHostAction: \"Allow\" is none of Drop, Return, Accept");
        assert!(
            refusal(&text("default", "{iptablesFilterDenyAction: 1}")).starts_with("spec.iptablesFilterDenyAction: 1")
        );
    }

    #[test]
    fn hep_7_failsafe_ports_have_a_protocol_and_may_have_a_network_and_an_empty_list_leaves_none() {
        let ports =
            "[{port: 22}, {protocol: UDP, port: 68, net: 10.0.0.0/8}, {protocol: tcp, port: 179, net: '2001:db8::1'}]";
        let (found, _) =
            felix("default", &format!("{{failsafeInboundHostPorts: {ports}, failsafeOutboundHostPorts: []}}"));
        let said = |ports: &Option<Vec<Failsafe>>| {
            let port = |Failsafe { protocol, port, net }: &Failsafe| match net {
                Some(net) => format!("{protocol} {port} {net}"),
                None => format!("{protocol} {port}"),
            };
            ports.as_ref().map(|ports| ports.iter().map(port).collect::<Vec<_>>().join(", "))
        };
        assert_eq!(
            said(&found.failsafe_inbound).as_deref(),
            Some("TCP 22, UDP 68 10.0.0.0/8, TCP 179 2001:db8::1/128")
        );
        assert_eq!(said(&found.failsafe_outbound).as_deref(), Some(""));
        for (port, field) in [
            ("{port: 0}", "port: 0 is not a number"),
            ("{port: 22, protocol: ICMP}", "protocol: \"ICMP\" is none of TCP, UDP and SCTP"),
            ("{port: 22, net: x}", "net: "),
            ("{port: 22, nets: x}", "nets: unknown field"),
        ] {
            let said = refusal(&text("default", &format!("{{failsafeInboundHostPorts: [{port}]}}")));
            assert!(said.starts_with(&format!("spec.failsafeInboundHostPorts[0].{field}")), "{said}");
        }
    }

    #[test]
    fn pkt_9_answers_for_pods_are_on_off_or_not_chosen_and_are_said_anew_as_often_as_is_written() {
        let read = |spec: &str| felix("default", spec).0;
        let on =
            read("{localSubnetL2Reachability: PodsAndLoadBalancers, localSubnetL2ReachabilityRefreshInterval: 2m}");
        assert_eq!((on.answers_for_pods, on.announces_every), (Some(true), Some(Duration::from_secs(120))));
        assert_eq!(read("{localSubnetL2Reachability: Disabled}").answers_for_pods, Some(false));
        let none = read("{localSubnetL2ReachabilityRefreshInterval: '0'}");
        assert_eq!((none.answers_for_pods, none.announces_every), (None, Some(Duration::ZERO)));
        for (spec, said) in [
            ("{localSubnetL2Reachability: Pods}", "localSubnetL2Reachability: \"Pods\" is none of Disabled"),
            (
                "{localSubnetL2ReachabilityRefreshInterval: 120}",
                "localSubnetL2ReachabilityRefreshInterval: 120 is not a duration",
            ),
        ] {
            let refused = refusal(&text("default", spec));
            assert!(refused.starts_with(&format!("spec.{said}")), "{refused}");
        }
    }

    #[test]
    fn spf_4_floating_addresses_are_on_off_or_not_chosen() {
        let read = |spec: &str| felix("default", spec).0.floating_ips;
        let known = ["{floatingIPs: Enabled}", "{floatingIPs: Disabled}", "{}"].map(read);
        assert_eq!(known, [Some(true), Some(false), None]);
        let refused = refusal(&text("default", "{floatingIPs: Maybe}"));
        assert!(refused.starts_with("spec.floatingIPs: \"Maybe\" is none of Disabled, Enabled"), "{refused}");
    }

    #[test]
    fn spf_2_other_sources_are_allowed_to_any_or_not_chosen() {
        let read = |spec: &str| felix("default", spec).0.source_spoofing;
        let known = ["{workloadSourceSpoofing: Any}", "{workloadSourceSpoofing: disabled}", "{}"].map(read);
        assert_eq!(known, [Some(true), Some(false), None]);
        let refused = refusal(&text("default", "{workloadSourceSpoofing: Some}"));
        assert!(refused.starts_with("spec.workloadSourceSpoofing: \"Some\" is none of Disabled, Any"), "{refused}");
    }

    #[test]
    fn what_is_not_served_is_named_once_and_an_object_that_no_node_reads_is_named() {
        let (found, unreadable) = felix("default", "{bpfEnabled: true, logPrefix: x, unheardOf: 1, ipv6Support: null}");
        let said = "spec: logPrefix, unheardOf are not served; what stands there changes nothing here";
        assert_eq!(unreadable, [said], "what means nothing here is no trouble");
        assert_eq!(found.sets.iter().map(String::as_str).collect::<Vec<_>>(), ["bpfEnabled", "logPrefix", "unheardOf"]);
        assert!(felix("n1", "{}").1[0].starts_with("metadata.name: \"n1\" is neither"));
    }

    #[test]
    fn an_object_of_another_name_is_for_the_nodes_that_it_selects() {
        let (found, unreadable) = felix("racks", "{nodeSelector: rack == 'a', logSeverityScreen: debug}");
        assert_eq!((found.selector.is_some(), found.log, unreadable.len()), (true, Some(LogLevel::Debug), 0));
        assert!(felix("default", "{nodeSelector: rack == 'a'}").0.selector.is_none(), "the default is for all");
        assert!(refusal(&text("racks", "{nodeSelector: 'rack =='}")).starts_with("spec.nodeSelector: "));
    }

    #[test]
    fn what_is_read_is_what_is_said_to_be_honoured() {
        let honoured = parameters::all().filter(|known| known.standing == Standing::Honoured).map(|known| known.field);
        assert_eq!(honoured.collect::<BTreeSet<_>>(), BTreeSet::from(SERVED));
    }

    #[test]
    fn the_definition_of_the_kind_has_each_field_that_is_served() {
        let definitions = crate::crds::definitions();
        let (_, felix) = definitions.iter().find(|(plural, _)| *plural == "felixconfigurations").expect("it is there");
        let spec = &felix["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let mut described: Vec<_> = spec.as_object().expect("fields").keys().map(String::as_str).collect();
        let mut served = [SERVED.as_slice(), &[SELECTOR]].concat();
        described.sort_unstable();
        served.sort_unstable();
        assert_eq!(described, served);
    }
    #[test]
    fn which_network_vxlan_is_and_at_which_port_is_read_and_whether_it_is_on() {
        let (found, unreadable) =
            felix("default", "{vxlanVNI: 16777215, vxlanPort: 4790, vxlanEnabled: false, ipipEnabled: true}");
        assert_eq!((found.vxlan_vni, found.vxlan_port), (Some(16_777_215), Some(4790)));
        assert_eq!((found.vxlan_enabled, found.ipip_enabled), (Some(false), Some(true)));
        assert!(unreadable.is_empty(), "{unreadable:?}");
        let (found, _) = felix("default", "{externalNodesList: [192.0.2.77, '2001:db8::/64']}");
        let nets: Vec<_> = found.external_nodes.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(nets, ["192.0.2.77/32", "2001:db8::/64"]);
        for (spec, said) in [
            ("{externalNodesList: [here]}", "externalNodesList[0]: "),
            ("{vxlanVNI: 16777216}", "vxlanVNI: 16777216 is not between 1 and 16777215"),
            ("{vxlanVNI: 0}", "vxlanVNI: 0 is not between 1"),
            ("{vxlanPort: 65536}", "vxlanPort: 65536 is not between 1 and 65535"),
            ("{vxlanPort: '4790'}", "vxlanPort: \"4790\" is not between"),
            ("{vxlanEnabled: perhaps}", "vxlanEnabled: "),
        ] {
            let refused = refusal(&text("default", spec));
            assert!(refused.starts_with(&format!("spec.{said}")), "{refused}");
        }
    }

    #[test]
    fn pkt_61_the_mtu_of_tunnels_is_read_and_one_that_no_link_could_have_is_refused() {
        let (found, unreadable) = felix("default", "{vxlanMTU: 1400, vxlanMTUV6: 0, ipipMTU: 1300}");
        assert_eq!((found.vxlan_mtu, found.vxlan_mtu_v6, found.ipip_mtu), (Some(1400), None, Some(1300)));
        assert!(unreadable.is_empty(), "{unreadable:?}");
        for (spec, said) in [
            ("{vxlanMTU: 67}", "vxlanMTU: 67 is neither 0 nor between 68 and 65535"),
            ("{vxlanMTUV6: 1279}", "vxlanMTUV6: 1279 is neither 0 nor between 1280 and 65535"),
            ("{ipipMTU: 65536}", "ipipMTU: 65536 is neither"),
            ("{ipipMTU: wide}", "ipipMTU: "),
        ] {
            let refused = refusal(&text("default", spec));
            assert!(refused.starts_with(&format!("spec.{said}")), "{refused}");
        }
    }
}
