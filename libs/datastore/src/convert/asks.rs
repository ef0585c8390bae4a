//! What a pod or its namespace asks of addresses.
//! In: annotations (cni-plugin/pkg/k8s/k8s.go, cni-plugin/pkg/ipamplugin). Out: [`PodAsks`].
//! Invariant: of what cannot be read or served nothing is taken, and the annotation is named: its pods are attached no more.
//! Never: refuses the pod or namespace for it: policies go on knowing its labels.

use super::{InvalidField, calico::entity::net, field::Meta, service::host_address};
use model::{Cidr, Family, Mac, PodAsks};
use std::net::IpAddr;

/// Pools of each family, of a pod or its namespace.
pub(crate) const POOLS: [&str; 2] = ["cni.projectcalico.org/ipv4pools", "cni.projectcalico.org/ipv6pools"];
/// Addresses.
pub(crate) const ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";
/// Addresses that nobody gives.
pub(crate) const ADDRESSES_OF_NO_POOL: &str = "cni.projectcalico.org/ipAddrsNoIpam";
/// Families.
pub(crate) const FAMILIES: &str = "cni.projectcalico.org/ipFamilies";
/// Sources beside the pod's own.
pub(crate) const SOURCES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
/// A MAC.
pub(crate) const MAC: &str = "cni.projectcalico.org/hwAddr";

/// Whether addresses are held for the pod's name once it is gone, and for how long; of a pod, or a namespace for its pods.
pub(crate) const STICKY: [&str; 2] = ["tortie.dev/sticky-address", "tortie.dev/sticky-for"];
/// The virtual machine that KubeVirt runs in a pod.
const MACHINE: &str = "vm.kubevirt.io/name";

/// What a pod asks; an empty annotation says nothing.
pub(super) fn of_pod(meta: &Meta, unreadable: &mut Vec<InvalidField>) -> Option<Box<PodAsks>> {
    of(meta, unreadable, true)
}

/// What a namespace asks for its pods: pools, and whether addresses outlive them.
pub(super) fn of_namespace(meta: &Meta, unreadable: &mut Vec<InvalidField>) -> Option<Box<PodAsks>> {
    of(meta, unreadable, false)
}

fn of(meta: &Meta, unreadable: &mut Vec<InvalidField>, is_pod: bool) -> Option<Box<PodAsks>> {
    let mut asks = PodAsks::default();
    let mut refuse = |asks: &mut PodAsks, key: &str, reason: String| {
        let path = format!("metadata.annotations[{key}]");
        unreadable.push(InvalidField::new(&path, &reason).so("no pod is attached that asks for it"));
        asks.refused.get_or_insert(format!("the annotation {key}: {reason}"));
    };
    let text = |key: &str| meta.annotation(key).filter(|text| !text.is_empty());
    for (key, family) in POOLS.into_iter().zip([Family::V4, Family::V6]) {
        match text(key).map(list) {
            Some(Ok(pools)) => drop(asks.pools.insert(family, pools)),
            Some(Err(reason)) => refuse(&mut asks, key, reason),
            None => {}
        }
    }
    match text(STICKY[0]).map(str::parse) {
        Some(Ok(asked)) => asks.keeps.asked = Some(asked),
        Some(Err(_)) => refuse(&mut asks, STICKY[0], "is neither true nor false".to_owned()),
        None => {}
    }
    match text(STICKY[1]).map(|text| super::duration(STICKY[1], &text.into())) {
        Some(Ok(held)) => asks.keeps.held = Some(held),
        Some(Err(reason)) => refuse(&mut asks, STICKY[1], reason.reason),
        None => {}
    }
    if is_pod {
        asks.keeps.is_stateful = meta.is_owned_by("StatefulSet");
        asks.keeps.machine = meta.labels().get(MACHINE).filter(|name| !name.is_empty()).map(|name| name.to_string());
        match text(ADDRESSES).map(addresses) {
            Some(Ok(addresses)) => asks.addresses = addresses,
            Some(Err(reason)) => refuse(&mut asks, ADDRESSES, reason),
            None => {}
        }
        match text(FAMILIES).map(families) {
            Some(Ok(families)) => asks.families = families,
            Some(Err(reason)) => refuse(&mut asks, FAMILIES, reason),
            None => {}
        }
        match text(MAC).map(mac) {
            Some(Ok(mac)) => asks.mac = Some(mac),
            Some(Err(reason)) => refuse(&mut asks, MAC, reason),
            None => {}
        }
        match text(SOURCES).map(sources) {
            Some(Ok(sources)) => asks.sources = sources,
            Some(Err(reason)) => refuse(&mut asks, SOURCES, reason),
            None => {}
        }
        match text(ADDRESSES_OF_NO_POOL).map(addresses) {
            Some(Ok(_)) if text(ADDRESSES).is_some() => {
                let reason = format!("can't have both annotations: {ADDRESSES} says other addresses");
                refuse(&mut asks, ADDRESSES_OF_NO_POOL, reason);
            }
            Some(Ok(addresses)) => asks.named = addresses,
            Some(Err(reason)) => refuse(&mut asks, ADDRESSES_OF_NO_POOL, reason),
            None => {}
        }
    }
    (asks != PodAsks::default()).then(|| Box::new(asks))
}

fn list(text: &str) -> Result<Vec<String>, String> {
    let list: Vec<String> = serde_json::from_str(text)
        .map_err(|error| format!("{text:?} is no JSON list of names such as [\"pods\"]: {error}"))?;
    if list.is_empty() { Err("the list is empty".to_owned()) } else { Ok(list) }
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut found: Vec<IpAddr> = Vec::new();
    for text in list(text)? {
        let address = host_address(&text).ok_or_else(|| format!("{text:?} is no address that a pod can have"))?;
        if found.iter().any(|known| Family::of(*known) == Family::of(address)) {
            return Err("a pod has one address of a family".to_owned());
        }
        found.push(address);
    }
    Ok(found)
}

/// Networks; in the endpoints of an etcd they stand as they are.
fn sources(text: &str) -> Result<Vec<Cidr>, String> {
    let list: Vec<String> = serde_json::from_str(text)
        .map_err(|error| format!("{text:?} is no JSON list of networks such as [\"198.51.100.0/24\"]: {error}"))?;
    prefixes(&list)
}

/// So many at most: whoever may write pods takes no more of the node's tables by one of them.
const MOST: usize = 64;

/// Networks by which a pod may send beside its own addresses.
pub(super) fn prefixes(list: &[String]) -> Result<Vec<Cidr>, String> {
    if list.len() > MOST {
        return Err(format!("it lists {} networks, at most {MOST} are taken", list.len()));
    }
    let network = |text: &String| net("", text).map_err(|_| format!("{text:?} is no network such as 198.51.100.0/24"));
    list.iter().map(network).collect()
}

fn families(text: &str) -> Result<Vec<Family>, String> {
    let family = |text: &String| match text.as_str() {
        "IPv4" => Ok(Family::V4),
        "IPv6" => Ok(Family::V6),
        other => Err(format!("{other:?} is neither IPv4 nor IPv6")),
    };
    list(text)?.iter().map(family).collect()
}

fn mac(text: &str) -> Result<Mac, String> {
    let mac: Mac = text.parse().map_err(|error: model::net::InvalidNet| error.to_string())?;
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(format!("{mac} is not the address of one interface"));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::super::tests::known;
    use model::{Family, PodAsks, Resource};

    fn read(kind: &str, annotation: &str, value: &str) -> (Option<PodAsks>, Vec<String>) {
        let text = format!(
            "{{apiVersion: v1, kind: {kind}, metadata: {{name: a, annotations: {{cni.projectcalico.org/{annotation}: '{value}'}}}}}}"
        );
        match known(&text) {
            (Resource::Pod(pod), unreadable) => (pod.asks.as_deref().cloned(), unreadable),
            (Resource::Namespace(namespace), unreadable) => (namespace.asks.as_deref().cloned(), unreadable),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn calc_7_calc_9_calc_11_what_a_pod_asks_is_read_from_calicos_annotations() {
        let asks = |annotation: &str, value: &str| match read("Pod", annotation, value) {
            (Some(asks), unreadable) if unreadable.is_empty() => asks,
            other => panic!("{other:?}"),
        };
        let pools = |asks: PodAsks| asks.pools.into_iter().next();
        assert_eq!(
            pools(asks("ipv4pools", r#"["a", "10.65.0.0/16"]"#)),
            Some((Family::V4, vec!["a".into(), "10.65.0.0/16".into()]))
        );
        assert_eq!(pools(asks("ipv6pools", r#"["b"]"#)), Some((Family::V6, vec!["b".into()])));
        let addresses = asks("ipAddrs", r#"["10.65.0.7", "fd00::7"]"#).addresses;
        assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.65.0.7", "fd00::7"]);
        let named = asks("ipAddrsNoIpam", r#"["192.0.2.7"]"#).named;
        assert_eq!(named.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.7"]);
        let sources = asks("allowedSourcePrefixes", r#"["198.51.100.0/24", "2001:db8::1"]"#).sources;
        assert_eq!(sources.iter().map(ToString::to_string).collect::<Vec<_>>(), ["198.51.100.0/24", "2001:db8::1/128"]);
        assert_eq!(asks("ipFamilies", r#"["IPv6"]"#).families, [Family::V6]);
        assert_eq!(
            asks("hwAddr", "0a:58:0a:00:00:01").mac.map(|mac| mac.to_string()),
            Some("0a:58:0a:00:00:01".into())
        );
        assert_eq!(read("Pod", "ipAddrs", ""), (None, vec![]), "says nothing");
        assert_eq!(read("Namespace", "ipv4pools", r#"["a"]"#).0.and_then(pools), Some((Family::V4, vec!["a".into()])));
        assert_eq!(read("Namespace", "ipAddrs", r#"["10.65.0.7"]"#), (None, vec![]), "is a pod's to ask");
    }

    #[test]
    fn calc_9_to_calc_11_what_cannot_be_read_or_served_is_named() {
        for (annotation, value, said) in [
            ("ipv4pools", "a", "is no JSON list"),
            ("ipv6pools", "[]", "the list is empty"),
            ("ipAddrs", "10.65.0.7", "is no JSON list"),
            ("ipAddrs", r#"["10.65.0.7", "10.65.0.8"]"#, "one address of a family"),
            ("ipAddrs", r#"["10.65.0.7/24"]"#, "is no address"),
            ("allowedSourcePrefixes", "198.51.100.0/24", "is no JSON list of networks"),
            ("allowedSourcePrefixes", r#"["everything"]"#, "\"everything\" is no network"),
            ("ipFamilies", r#"["ipv4"]"#, "is neither IPv4 nor IPv6"),
            ("hwAddr", "none", "none"),
            ("hwAddr", "01:00:5e:00:00:01", "not the address of one interface"),
            ("ipAddrsNoIpam", r#"["10.65.0.7", "10.65.0.8"]"#, "one address of a family"),
            ("ipAddrsNoIpam", r#"["10.65.0.7"]', cni.projectcalico.org/ipAddrs: '["10.65.0.8"]"#, "can't have both"),
        ] {
            let (asks, unreadable) = read("Pod", annotation, value);
            let refused = asks.and_then(|asks| asks.refused).expect("it is refused");
            assert!(refused.contains(annotation) && refused.contains(said), "{refused}");
            let [problem] = &unreadable[..] else { panic!("{unreadable:?}") };
            assert!(
                problem.starts_with(&format!("metadata.annotations[cni.projectcalico.org/{annotation}]: ")),
                "{problem}"
            );
        }
    }

    #[test]
    fn whether_addresses_outlive_a_pod_is_read_of_its_annotations_its_owner_and_its_machine() {
        let keeps = |metadata: &str, kind: &str| {
            let text = format!("{{apiVersion: v1, kind: {kind}, metadata: {{name: a, {metadata}}}}}");
            match known(&text) {
                (Resource::Pod(pod), problems) => {
                    (pod.asks.as_deref().cloned().map(|asks| (asks.keeps, asks.refused)), problems.len())
                }
                (Resource::Namespace(own), problems) => {
                    (own.asks.as_deref().cloned().map(|asks| (asks.keeps, asks.refused)), problems.len())
                }
                other => panic!("{other:?}"),
            }
        };
        let said = "annotations: {tortie.dev/sticky-address: 'true', tortie.dev/sticky-for: 90m}";
        for kind in ["Pod", "Namespace"] {
            let (asks, problems) = keeps(said, kind);
            let held = Some(std::time::Duration::from_secs(90 * 60));
            let expected = model::Keeps { asked: Some(true), held, ..model::Keeps::default() };
            assert_eq!((asks, problems), (Some((expected, None)), 0), "{kind}");
        }
        let owned = keeps("ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: u}]", "Pod").0;
        assert!(owned.is_some_and(|(keeps, _)| keeps.is_stateful && keeps.asked.is_none()));
        let machine = keeps("labels: {vm.kubevirt.io/name: vm1}", "Pod").0;
        assert_eq!(machine.and_then(|(keeps, _)| keeps.machine).as_deref(), Some("vm1"));
        for (wrong, said) in [
            ("sticky-address: 'yes'", "sticky-address: is neither true nor false"),
            ("sticky-for: for ever", "sticky-for: \"for ever\" is not a duration like \"120s\""),
        ] {
            let (asks, problems) = keeps(&format!("annotations: {{tortie.dev/{wrong}}}"), "Pod");
            let refused = asks.and_then(|(_, refused)| refused).expect("it is refused");
            assert_eq!((refused, problems), (format!("the annotation tortie.dev/{said}"), 1));
        }
    }
}
