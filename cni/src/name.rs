//! Names that follow from a pod or an attachment.
//! In: identities. Out: the host interface's name and alias.
//! Invariant: equal inputs give equal names on every node, the names Calico gives.
//! Never: asks who uses a name already.

use model::{AttachmentId, FIRST_INTERFACE, IfaceName, PodId};
use sha1::{Digest, Sha1};
use std::fmt::Write;

/// What every workload interface begins with.
pub const INTERFACE_PREFIX: &str = "cali";
/// The kernel's limit for an alias, its end left out.
const ALIAS_MAX: usize = 255;

/// The host side's name: `cali` and 11 hexadecimal digits of SHA-1 over `namespace.pod`
/// (Calico: libcalico-go workload_endpoint_default.go), and for an interface that is not the pod's first over
/// `namespace.pod/interface`: no pod's name has a slash. Two sandboxes of one pod share it.
#[must_use]
pub fn host_interface_name(pod: &PodId, interface: &str) -> IfaceName {
    let mut text = format!("{}.{}", pod.namespace, pod.name);
    if interface != FIRST_INTERFACE {
        text.push('/');
        text.push_str(interface);
    }
    let digest = hexadecimal(&text);
    IfaceName(format!("{INTERFACE_PREFIX}{}", &digest[..11]))
}

/// The host side's alias: whose it is, so that a late DEL of an old sandbox leaves its successor alone.
#[must_use]
pub fn host_interface_alias(id: &AttachmentId) -> String {
    let text = format!("tortie {id}");
    if text.len() <= ALIAS_MAX { text } else { format!("tortie sha1:{}", hexadecimal(&id.to_string())) }
}

fn hexadecimal(text: &str) -> String {
    let mut digits = String::new();
    for byte in Sha1::digest(text.as_bytes()) {
        write!(digits, "{byte:02x}").expect("a string takes every write");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calc_2_the_host_interface_is_cali_and_eleven_digits_of_sha1() {
        // printf default.web | sha1sum
        assert_eq!(host_interface_name(&PodId::new("default", "web"), "eth0").0, "cali68caf03a5f4");
        assert_eq!(host_interface_name(&PodId::new("default", "web"), "eth0").0.len(), 15);
    }

    #[test]
    fn calc_15_every_interface_of_a_pod_has_a_host_side_of_its_own() {
        let web = PodId::new("default", "web");
        let names = [
            host_interface_name(&web, "eth0"),
            host_interface_name(&web, "net1"),
            host_interface_name(&web, "net2"),
            host_interface_name(&PodId::new("default", "web.net1"), "eth0"),
        ];
        for (place, name) in names.iter().enumerate() {
            assert_eq!(name.0.len(), 15);
            assert!(!names[..place].contains(name), "{names:?}");
        }
    }

    #[test]
    fn an_alias_names_the_attachment_and_always_fits() {
        let id = |container: &str| AttachmentId {
            network: "tortie".to_owned(),
            container: container.to_owned(),
            interface: "eth0".to_owned(),
        };
        assert_eq!(host_interface_alias(&id("c1")), "tortie tortie/c1/eth0");
        let long = host_interface_alias(&id(&"c".repeat(300)));
        assert!(long.len() <= ALIAS_MAX);
        assert_ne!(long, host_interface_alias(&id(&"c".repeat(301))));
    }
}
