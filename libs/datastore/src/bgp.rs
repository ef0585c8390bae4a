//! What nodes say of BGP, where Calico has it.
//! In: a Node's annotations, or Calico's Node. Out: [`NodeBgp`].
//! Invariant: by which addresses it speaks is said where it says by which it is reached (`node_addresses`).
//! Never: a number or an address in the place of what cannot be read.

use crate::convert::InvalidField;
use model::NodeBgp;
use serde_json::Value;

/// Number, cluster of reflectors.
pub(crate) type Names = [&'static str; 2];

/// As annotations of a Node (libcalico-go/lib/backend/k8s/resources/node.go).
pub(crate) const ANNOTATIONS: Names = ["projectcalico.org/ASNumber", "projectcalico.org/RouteReflectorClusterID"];
/// In `spec.bgp` of Calico's Node (libcalico-go/lib/apis/v3/node.go).
pub(crate) const FIELDS: Names = ["asNumber", "routeReflectorClusterID"];

/// A value as text.
pub(crate) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.is_number().then(|| value.to_string()))
}

/// What is said under these names; `place` stands before a name where it is told to people.
pub(crate) fn read(
    (place, [number, cluster]): (&str, Names),
    said: impl Fn(&str) -> Option<String>,
    unreadable: &mut Vec<InvalidField>,
) -> NodeBgp {
    let said = |name: &str| said(name).filter(|text| !text.is_empty());
    let mut refused =
        |name: &str, reason: String| unreadable.push(InvalidField::new(&format!("{place}{name}"), reason));
    let as_number = said(number)
        .and_then(|text| text.parse().map_err(|expected| refused(number, format!("{text:?} is not {expected}"))).ok());
    let cluster_id = said(cluster).and_then(|text| {
        let why = || format!("{text:?} is not an identity such as 244.0.0.1; the node reflects no routes");
        text.parse().map_err(|_| refused(cluster, why())).ok()
    });
    NodeBgp { as_number, cluster_id }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::AsNumber;

    fn found(said: &[(&str, &str)]) -> (NodeBgp, Vec<String>) {
        let mut unreadable = Vec::new();
        let of = |name: &str| said.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let bgp = read(("spec.bgp.", FIELDS), of, &mut unreadable);
        (bgp, unreadable.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_node_says_its_number_and_what_it_reflects() {
        let (bgp, unreadable) = found(&[("asNumber", "64600"), ("routeReflectorClusterID", "244.0.0.1")]);
        assert_eq!(bgp.as_number, Some(AsNumber(64600)));
        assert_eq!((bgp.cluster_id, unreadable.len()), (Some([244, 0, 0, 1].into()), 0));
    }

    #[test]
    fn what_cannot_be_read_is_not_there_and_is_named() {
        let (bgp, unreadable) = found(&[("asNumber", "x"), ("routeReflectorClusterID", "one")]);
        assert_eq!(bgp, NodeBgp::default());
        assert_eq!(unreadable.len(), 2, "{unreadable:?}");
    }
}
