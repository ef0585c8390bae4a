//! Definitions of Calico's kinds, as an API server wants them: for clusters on which Calico's own are not.
//! In: the types by which objects are read. Out: one CustomResourceDefinition a kind, under Calico's names.
//! Invariant: what Calico or calicoctl wrote goes in whole: fields that are not known here are kept, none is filled in.
//! Never: refuses what Calico's own definitions take, but for what nobody could read.

pub(crate) mod checks;
pub(crate) mod shapes;
mod structural;

use crate::convert::{
    BgpConfigurationSpec, BgpFilterSpec, BgpPeerSpec, HostEndpointSpec, IpPoolSpec, IpReservationSpec, IpamConfigSpec,
    NetworkSetSpec, PolicySpec, TierSpec,
};
use crate::node_status::{self, Spec as NodeStatusSpec};
use checks::{Check, of};
use ipam::{Block, BlockAffinity, IpamHandle};
use schemars::JsonSchema;
use serde_json::{Value, json};
use structural::structural;

/// The group in which Calico's objects are kept.
pub const GROUP: &str = "crd.projectcalico.org";
/// Its version.
pub const VERSION: &str = "v1";

/// A kind.
struct Kind {
    kind: &'static str,
    plural: &'static str,
    scope: &'static str,
    spec: Value,
    /// What is asked of the object as a whole, its name included.
    checks: &'static [Check],
    /// Calico writes a status.
    has_status: bool,
    /// Fields by which a server can choose objects (Kubernetes 1.31).
    chosen_by: &'static [&'static str],
}

impl Kind {
    /// One whose objects are the cluster's.
    fn of<T: JsonSchema>(kind: &'static str, plural: &'static str) -> Self {
        Self { kind, plural, scope: "Cluster", spec: structural::<T>(), checks: &[], has_status: false, chosen_by: &[] }
    }

    fn namespaced(self) -> Self {
        Self { scope: "Namespaced", ..self }
    }

    fn checked(self, checks: &'static [Check]) -> Self {
        Self { checks, ..self }
    }

    fn with_status(self) -> Self {
        Self { has_status: true, ..self }
    }

    fn chosen_by(self, chosen_by: &'static [&'static str]) -> Self {
        Self { chosen_by, ..self }
    }

    /// The spec must hold to these as well.
    fn whose_spec(mut self, checks: &[Check]) -> Self {
        let rules = &mut self.spec["x-kubernetes-validations"];
        let mut all = rules.as_array().cloned().unwrap_or_default();
        all.extend(checks.iter().map(Check::said));
        *rules = all.into();
        self
    }

    fn staged(mut self) -> Self {
        let action = json!({
            "description": "Set, as if nothing stood here: what the policy would do. Delete: what its absence would.",
            "type": "string", "enum": ["Set", "Delete", "Learn", "Ignore", ""],
        });
        self.spec["properties"]["stagedAction"] = action;
        self
    }

    fn definition(&self) -> Value {
        let Self { kind, plural, scope, spec, checks, has_status, chosen_by } = self;
        let mut schema = json!({
            "type": "object", "required": ["metadata", "spec"], "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "apiVersion": { "type": "string" }, "kind": { "type": "string" }, "metadata": { "type": "object" },
                "spec": spec,
            },
        });
        if !checks.is_empty() {
            schema["x-kubernetes-validations"] = of(checks);
        }
        let mut version = json!({ "name": VERSION, "served": true, "storage": true });
        if *has_status {
            schema["properties"]["status"] = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
            version["subresources"] = json!({ "status": {} });
        }
        if !chosen_by.is_empty() {
            version["selectableFields"] = chosen_by.iter().map(|path| json!({ "jsonPath": path })).collect();
        }
        version["schema"] = json!({ "openAPIV3Schema": schema });
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.{GROUP}"), "labels": { "app.kubernetes.io/name": "tortie" } },
            "spec": {
                "group": GROUP, "scope": scope,
                "names": {
                    "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase(),
                },
                "versions": [version],
            },
        })
    }
}

/// All of them: the plural, and the definition.
#[must_use]
pub fn definitions() -> Vec<(&'static str, Value)> {
    let kinds = [
        Kind::of::<TierSpec>("Tier", "tiers").checked(checks::TIER).with_status(),
        Kind::of::<PolicySpec>("NetworkPolicy", "networkpolicies").namespaced().whose_spec(checks::NAMESPACED),
        Kind::of::<PolicySpec>("GlobalNetworkPolicy", "globalnetworkpolicies").whose_spec(checks::GLOBAL),
        Kind::of::<PolicySpec>("StagedNetworkPolicy", "stagednetworkpolicies")
            .namespaced()
            .whose_spec(checks::NAMESPACED)
            .staged(),
        Kind::of::<PolicySpec>("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies")
            .whose_spec(checks::GLOBAL)
            .staged(),
        Kind::of::<shapes::Open>("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies")
            .namespaced()
            .staged(),
        Kind::of::<NetworkSetSpec>("NetworkSet", "networksets").namespaced(),
        Kind::of::<NetworkSetSpec>("GlobalNetworkSet", "globalnetworksets"),
        Kind::of::<HostEndpointSpec>("HostEndpoint", "hostendpoints"),
        Kind::of::<shapes::Felix>("FelixConfiguration", "felixconfigurations"),
        Kind::of::<BgpConfigurationSpec>("BGPConfiguration", "bgpconfigurations"),
        Kind::of::<BgpPeerSpec>("BGPPeer", "bgppeers"),
        Kind::of::<BgpFilterSpec>("BGPFilter", "bgpfilters"),
        Kind::of::<NodeStatusSpec>(node_status::KIND, node_status::PLURAL).with_status().chosen_by(&[".spec.node"]),
        Kind::of::<shapes::Named>("ClusterInformation", "clusterinformations"),
        Kind::of::<shapes::SetUp>("KubeControllersConfiguration", "kubecontrollersconfigurations").with_status(),
        Kind::of::<IpPoolSpec>("IPPool", "ippools").with_status(),
        Kind::of::<IpReservationSpec>("IPReservation", "ipreservations"),
        Kind::of::<IpamConfigSpec>("IPAMConfig", "ipamconfigs"),
        Kind::of::<Block>("IPAMBlock", "ipamblocks"),
        Kind::of::<BlockAffinity>("BlockAffinity", "blockaffinities"),
        Kind::of::<IpamHandle>("IPAMHandle", "ipamhandles"),
    ];
    kinds.iter().map(|kind| (kind.plural, kind.definition())).collect()
}

/// The file of a definition under `deploy/crds`.
#[must_use]
pub fn file_name(plural: &str) -> String {
    format!("{GROUP}_{plural}.yaml")
}

/// As it stands there.
///
/// # Panics
/// Never: what is made of JSON is YAML.
#[must_use]
pub fn file_text(definition: &Value) -> String {
    let text = serde_saphyr::to_string(definition).expect("JSON is YAML");
    format!("# Written by `cargo xtask crds` from the types by which Tortie reads this kind.\n{text}")
}

#[cfg(test)]
mod tests;
