//! A node's own interfaces, as Calico's node tells them (node/pkg/lifecycle/startup/startup.go): host endpoints are made of them.
//! In: an annotation of a Node, a field of Calico's Node, or [`NodeInterfaces`]. Out: names, each with its addresses.
//! Invariant: what cannot be read of it is left out.
//! Never: an interface twice.

use model::{IfaceName, NodeName};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Of a Node (libcalico-go/lib/backend/k8s/resources/node.go).
pub(crate) const ANNOTATION: &str = "projectcalico.org/Interfaces";
/// In the spec of Calico's Node.
pub(crate) const FIELD: &str = "interfaces";

/// What an agent tells of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInterfaces {
    /// The node.
    pub node: NodeName,
    /// Its interfaces, with their addresses.
    pub interfaces: BTreeMap<IfaceName, BTreeSet<IpAddr>>,
}

impl NodeInterfaces {
    /// As Calico has them.
    pub(crate) fn told(&self) -> Value {
        let one = |(name, own): (&IfaceName, &BTreeSet<IpAddr>)| json!({ "name": name.0, "addresses": own });
        self.interfaces.iter().map(one).collect()
    }
}

/// Of a list as Calico has it.
pub(crate) fn read(list: Option<&Value>) -> Vec<(String, Vec<IpAddr>)> {
    let mut all = BTreeMap::<String, Vec<IpAddr>>::new();
    for interface in list.and_then(Value::as_array).into_iter().flatten() {
        let Some(name) = interface["name"].as_str() else { continue };
        let own = interface["addresses"].as_array().into_iter().flatten();
        all.entry(name.to_owned()).or_default().extend(own.filter_map(|text| text.as_str()?.parse::<IpAddr>().ok()));
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_and_what_cannot_be_read_is_left_out() {
        let own = |text: &str| text.parse::<IpAddr>().expect("an address");
        let interfaces = [
            (IfaceName("eth1".into()), BTreeSet::new()),
            (IfaceName("eth0".into()), [own("192.0.2.1"), own("2001:db8::1")].into()),
        ];
        let told = NodeInterfaces { node: "n1".into(), interfaces: interfaces.into() }.told();
        assert_eq!(
            told,
            json!([{ "name": "eth0", "addresses": ["192.0.2.1", "2001:db8::1"] }, { "name": "eth1", "addresses": [] }])
        );
        let expected = [("eth0".to_owned(), vec![own("192.0.2.1"), own("2001:db8::1")]), ("eth1".to_owned(), vec![])];
        assert_eq!(read(Some(&told)), expected);
        let odd = json!([{ "addresses": ["192.0.2.1"] }, 7, { "name": "eth0", "addresses": ["here", 1, "192.0.2.1"] }]);
        assert_eq!(read(Some(&odd)), [("eth0".to_owned(), vec![own("192.0.2.1")])]);
        assert!(read(Some(&json!("x"))).is_empty() && read(None).is_empty());
    }
}
