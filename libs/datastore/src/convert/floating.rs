//! Floating addresses of a pod.
//! In: the annotation `cni.projectcalico.org/floatingIPs` (cni-plugin/pkg/k8s/k8s.go), or what was read of it. Out: [`FloatingIps`].
//! Invariant: of a list that cannot be read no address floats; of one that is too long the first [`MOST`] do.
//! Never: refuses the pod for it: policies go on knowing its labels.

use super::{
    InvalidField,
    field::Meta,
    service::{created, host_address},
};
use model::FloatingIps;
use serde_json::Value;
use std::net::IpAddr;

/// At most so many float to one pod: whoever may write pods takes no more of the node's tables by one of them.
const MOST: usize = 16;

pub(crate) const FLOATING_IPS: &str = "cni.projectcalico.org/floatingIPs";

/// What the pod says of them; an empty annotation says nothing, as in Calico.
pub(super) fn convert(meta: &Meta, object: &Value, unreadable: &mut Vec<InvalidField>) -> Option<Box<FloatingIps>> {
    let text = meta.annotation(FLOATING_IPS).filter(|text| !text.is_empty())?;
    let list = serde_json::from_str(text)
        .map_err(|error| format!("{text:?} is no JSON list of addresses such as [\"192.0.2.7\"]: {error}"));
    Some(of(&format!("metadata.annotations[{FLOATING_IPS}]"), list, object, unreadable))
}

/// What a list says that stands at this path of a pod, or of what stands for it.
pub(super) fn of(
    path: &str,
    list: Result<Vec<String>, String>,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Box<FloatingIps> {
    let created = created(object);
    let mut tell = |reason: &str, so: &str| unreadable.push(InvalidField::new(path, reason).so(so));
    let (addresses, unread) = match list.and_then(|list| addresses(&list)) {
        Ok(mut addresses) => {
            if addresses.len() > MOST {
                let reason = format!("it lists {} addresses", addresses.len());
                tell(&reason, &format!("only the first {MOST} float to the pod"));
                addresses.truncate(MOST);
            }
            (addresses, None)
        }
        Err(reason) => {
            tell(&reason, "no address floats to the pod");
            (Vec::new(), Some(reason))
        }
    };
    Box::new(FloatingIps { addresses, unread, created })
}

fn addresses(list: &[String]) -> Result<Vec<IpAddr>, String> {
    let address = |text: &String| {
        let found = host_address(text).filter(|address| !is_of_one_link(*address));
        found.ok_or_else(|| format!("{text:?} is no address that a packet from elsewhere could be sent to"))
    };
    list.iter().map(address).collect()
}

/// Link-local, the pods' gateway among them, or of everybody.
fn is_of_one_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::known;
    use model::{FloatingIps, Resource};

    fn pod(annotation: &str) -> (Option<FloatingIps>, Vec<String>) {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a, labels: {{app: a}}, creationTimestamp: \
             '2026-11-26T01:55:00Z', annotations: {{cni.projectcalico.org/floatingIPs: '{annotation}'}}}}}}"
        );
        match known(&text) {
            (Resource::Pod(pod), unreadable) => {
                assert_eq!(pod.labels.get("app"), Some("a"), "policies know it all the same");
                (pod.floating.as_deref().cloned(), unreadable)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn spf_4_floating_addresses_are_a_json_list_of_either_family() {
        let (found, unreadable) = pod(r#"["192.0.2.7", "2001:db8::21"]"#);
        let found = found.expect("the annotation is there");
        assert_eq!(found.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.7", "2001:db8::21"]);
        assert_eq!((found.unread, found.created), (None, model::Created::read("2026-11-26T01:55:00Z")));
        assert!(unreadable.is_empty());
        assert_eq!(pod("").0, None, "as in Calico");
        assert_eq!(pod("[]").0.map(|found| (found.addresses.len(), found.unread)), Some((0, None)));
    }

    #[test]
    fn spf_4_of_what_cannot_be_read_nothing_floats_and_the_annotation_is_named() {
        for (annotation, said) in [
            ("192.0.2.7", "is no JSON list of addresses"),
            (r#"{"a": 1}"#, "is no JSON list of addresses"),
            ("[7]", "is no JSON list of addresses"),
            (r#"["192.0.2.7", "192.0.2.300"]"#, "\"192.0.2.300\" is no address"),
            (r#"["192.0.2.7/32"]"#, "is no address"),
            (r#"["127.0.0.1"]"#, "is no address"),
            (r#"["169.254.1.1"]"#, "is no address"),
            (r#"["fe80::ecee:eeff:feee:eeee"]"#, "is no address"),
            (r#"["224.0.0.1"]"#, "is no address"),
            (r#"["255.255.255.255"]"#, "is no address"),
            (r#"["0.0.0.0"]"#, "is no address"),
            (r#"["::ffff:192.0.2.7"]"#, "is no address"),
        ] {
            let (found, unreadable) = pod(annotation);
            let found = found.expect("it is there");
            assert!(found.addresses.is_empty() && found.unread.is_some_and(|text| text.contains(said)), "{annotation}");
            let [problem] = &unreadable[..] else { panic!("{unreadable:?}") };
            assert!(problem.starts_with("metadata.annotations[cni.projectcalico.org/floatingIPs]: "), "{problem}");
            assert!(problem.contains(said) && problem.ends_with("no address floats to the pod"), "{problem}");
        }
    }

    #[test]
    fn of_a_list_that_is_too_long_the_first_float_and_it_is_said_how_many() {
        let listed =
            |count: usize| pod(&format!("{:?}", (1..=count).map(|n| format!("192.0.2.{n}")).collect::<Vec<_>>()));
        for (count, said) in [(16, &[][..]), (17, &["it lists 17 addresses; only the first 16 float to the pod"])] {
            let (found, problems) = listed(count);
            let found = found.expect("it is there");
            assert_eq!((found.addresses.len(), found.unread), (16, None), "what floated stays");
            let text = |what: &&str| format!("metadata.annotations[cni.projectcalico.org/floatingIPs]: {what}");
            assert_eq!(problems, said.iter().map(text).collect::<Vec<_>>());
        }
    }
}
