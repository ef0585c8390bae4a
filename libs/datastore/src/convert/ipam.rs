//! IPAMConfiguration, IPReservation and BlockAffinity.
//! In: Calico's objects (api/pkg/apis/projectcalico/v3/{ipamconfig,ipreservation}.go), in either API group. Out: the model's.
//! Invariant: what is not said is as in Calico: nodes borrow, take blocks as they need them, and nobody limits those (IPAM-1).
//! Never: takes a combination with which no node could give anything (IPAM-2).

use super::{
    InvalidField,
    field::{Meta, read},
};
use ipam::{AffinityState, BlockAffinity};
use model::{BlockClaim, Cidr, IpReservation, IpamConfig};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

/// How nodes take blocks.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    /// No node gives out addresses of another's blocks.
    strict_affinity: Option<bool>,
    /// Nodes take new blocks when theirs are full.
    auto_allocate_blocks: Option<bool>,
    /// Blocks of one family that one node may have; 0: as many as Calico lets one have that nobody limits.
    #[schemars(range(max = 1_000_000))]
    max_blocks_per_host: Option<u32>,
    /// Seconds after which an address that was given back is given again.
    #[schemars(range(max = 1200))]
    ip_cooldown_seconds: Option<u32>,
}

/// Calico's bound for the time after which an address is given again.
const COOLDOWN_MAX: u32 = 1200;

/// Addresses that are given to nobody who does not name them.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Reservation {
    /// They, as networks or single addresses.
    #[serde(rename = "reservedCIDRs")]
    reserved: Option<Vec<String>>,
}

pub(crate) fn config(object: &Value) -> Result<IpamConfig, InvalidField> {
    let spec: Config = read("spec", object)?;
    let config = IpamConfig {
        strict_affinity: spec.strict_affinity.unwrap_or(false),
        auto_allocate_blocks: spec.auto_allocate_blocks.unwrap_or(true),
        max_blocks: spec.max_blocks_per_host.filter(|most| *most > 0),
        cooldown: spec.ip_cooldown_seconds.unwrap_or_default(),
    };
    if config.cooldown > COOLDOWN_MAX {
        let reason = format!("{} is more than {COOLDOWN_MAX}", config.cooldown);
        return Err(InvalidField::new("spec.ipCooldownSeconds", reason));
    }
    if !config.strict_affinity && !config.auto_allocate_blocks {
        let reason = "false is for clusters whose strictAffinity is true";
        return Err(InvalidField::new("spec.autoAllocateBlocks", reason));
    }
    Ok(config)
}

/// `None`: nobody is sure of it yet, or any more, or it is no node's.
pub(super) fn claim(meta: &Meta, object: &Value) -> Result<Option<BlockClaim>, InvalidField> {
    let BlockAffinity { state, node, affinity_type, cidr, deleted } = read("spec", object)?;
    let counts = state == AffinityState::Confirmed && affinity_type == "host" && deleted != "true";
    Ok(counts.then(|| BlockClaim { name: meta.name.clone(), cidr, node }))
}

pub(super) fn reservation(meta: &Meta, object: &Value) -> Result<IpReservation, InvalidField> {
    let spec: Reservation = read("spec", object)?;
    let cidr = |(index, text): (usize, &String)| {
        let address = || text.parse::<IpAddr>().ok().map(Cidr::host);
        text.parse().ok().or_else(address).ok_or_else(|| {
            let path = format!("spec.reservedCIDRs[{index}]");
            InvalidField::new(&path, format!("{text:?} is no network and no address"))
        })
    };
    let cidrs = spec.reserved.unwrap_or_default().iter().enumerate().map(cidr).collect::<Result<_, _>>()?;
    Ok(IpReservation { name: meta.name.clone(), cidrs })
}

#[cfg(test)]
mod tests {
    use super::super::{
        Converted,
        tests::{converted, known, refusal},
    };
    use model::{IpamConfig, Resource};

    fn config(spec: &str) -> String {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: IPAMConfiguration, metadata: {{name: default}}, spec: {spec}}}"
        )
    }

    #[test]
    fn ipam_1_what_a_configuration_does_not_say_is_calicos_default() {
        let read = |text: &str| match known(text).0 {
            Resource::IpamConfig(name, config) => {
                assert_eq!(name, IpamConfig::NAME);
                config
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(read(&config("{}")), IpamConfig::default());
        assert_eq!(read(&config("{maxBlocksPerHost: 0}")), IpamConfig::default(), "nobody limits it");
        let stored =
            config("{strictAffinity: true, maxBlocksPerHost: 3, autoAllocateBlocks: false, ipCooldownSeconds: 60}");
        let stored = stored
            .replace("projectcalico.org/v3", "crd.projectcalico.org/v1")
            .replace("IPAMConfiguration", "IPAMConfig");
        let all = IpamConfig { strict_affinity: true, auto_allocate_blocks: false, max_blocks: Some(3), cooldown: 60 };
        assert_eq!(read(&stored), all, "as Calico stores it");
    }

    #[test]
    fn ipam_2_a_configuration_by_which_no_node_could_give_anything_is_refused() {
        let said = refusal(&config("{strictAffinity: false, autoAllocateBlocks: false}"));
        assert!(said.starts_with("spec.autoAllocateBlocks: "), "{said}");
        assert!(refusal(&config("{maxBlocksPerHost: -1}")).contains("spec"));
        assert!(refusal(&config("{ipCooldownSeconds: 1201}")).starts_with("spec.ipCooldownSeconds: "));
    }

    #[test]
    fn ipam_17_reservations_are_networks_and_addresses_of_either_family() {
        let text = |list: &str| {
            format!(
                "{{apiVersion: projectcalico.org/v3, kind: IPReservation, metadata: {{name: r}}, spec: {{reservedCIDRs: {list}}}}}"
            )
        };
        match known(&text("['10.65.0.0/30', 10.65.1.7, 'fd00::/120']")).0 {
            Resource::IpReservation(found) => {
                let cidrs: Vec<_> = found.cidrs.iter().map(ToString::to_string).collect();
                assert_eq!(
                    (&*found.name, cidrs),
                    ("r", vec!["10.65.0.0/30".into(), "10.65.1.7/32".into(), "fd00::/120".into()])
                );
            }
            other => panic!("{other:?}"),
        }
        assert!(refusal(&text("['10.65.0.0/30', nets]")).starts_with("spec.reservedCIDRs[1]: \"nets\" is no network"));
    }

    #[test]
    fn a_claim_counts_once_it_is_confirmed_and_as_long_as_nobody_gives_it_up() {
        let of = |more: &str| {
            let text = format!(
                "{{apiVersion: crd.projectcalico.org/v1, kind: BlockAffinity, metadata: {{name: n1-10-65-0-0-26}}, \
                 spec: {{node: n1, {more}}}}}"
            );
            converted(&text)
        };
        match of("cidr: 10.65.0.0/26, state: confirmed") {
            Converted::Known { resource: Resource::BlockClaim(claim), .. } => {
                assert_eq!((&*claim.node.0, claim.cidr.to_string()), ("n1", "10.65.0.0/26".to_owned()));
            }
            other => panic!("{other:?}"),
        }
        let newer = "cidr: 10.65.0.0/26, state: confirmed, deleted: false";
        assert!(matches!(of(newer), Converted::Known { .. }), "as in projectcalico.org/v3");
        for more in [
            "state: pending",
            "state: pendingDeletion",
            "state: confirmed, deleted: 'true'",
            "state: confirmed, deleted: true",
            "state: confirmed, type: virtual",
        ] {
            let more = format!("cidr: 10.65.0.0/26, {more}");
            assert!(!matches!(of(&more), Converted::Known { .. }), "{more}");
        }
        assert!(matches!(of("state: confirmed, cidr: x"), Converted::Refused { .. }));
    }
}
