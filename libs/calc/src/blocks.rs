//! Blocks that nodes hold, by name, by network and by node.
//! In: claims as they come and go. Out: who holds a block, or the block over an address; the blocks of a node.
//! Invariant: of several claims on one block the first by name counts; the order of telling leaves no trace.
//! Never: says where packets go.

use model::{BlockClaim, Cidr, Family, NodeName};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Blocks {
    named: BTreeMap<String, BlockClaim>,
    /// Names of the claims on each; nearly always one.
    at: BTreeMap<Cidr, Vec<String>>,
    of: BTreeMap<NodeName, BTreeSet<(Cidr, String)>>,
    /// How many blocks there are of each family and prefix length: a cluster has few sizes.
    sizes: BTreeMap<(Family, u8), usize>,
}

impl Blocks {
    /// `false`: it was so.
    pub(crate) fn put(&mut self, claim: BlockClaim) -> bool {
        if self.named.get(&claim.name) == Some(&claim) {
            return false;
        }
        self.remove(&claim.name);
        let names = self.at.entry(claim.cidr).or_default();
        if names.is_empty() {
            *self.sizes.entry(size(claim.cidr)).or_default() += 1;
        }
        names.push(claim.name.clone());
        names.sort();
        self.of.entry(claim.node.clone()).or_default().insert((claim.cidr, claim.name.clone()));
        self.named.insert(claim.name.clone(), claim);
        true
    }

    /// `false`: it was not there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some(gone) = self.named.remove(name) else { return false };
        if let Some(names) = self.at.get_mut(&gone.cidr) {
            names.retain(|known| known != name);
            if names.is_empty() {
                self.at.remove(&gone.cidr);
                if let Some(count) = self.sizes.get_mut(&size(gone.cidr)) {
                    *count -= 1;
                }
                self.sizes.retain(|_, count| *count > 0);
            }
        }
        if let Some(own) = self.of.get_mut(&gone.node) {
            own.remove(&(gone.cidr, gone.name));
            if own.is_empty() {
                self.of.remove(&gone.node);
            }
        }
        true
    }

    pub(crate) fn named(&self, name: &str) -> Option<&BlockClaim> {
        self.named.get(name)
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = Cidr> {
        self.at.keys().copied()
    }

    /// Who holds it.
    pub(crate) fn holder(&self, cidr: Cidr) -> Option<&NodeName> {
        let name = self.at.get(&cidr)?.first()?;
        self.named.get(name).map(|claim| &claim.node)
    }

    /// Who holds the smallest block over an address.
    pub(crate) fn holder_of(&self, address: IpAddr) -> Option<&NodeName> {
        let family = Family::of(address);
        let sizes = self.sizes.range((family, 0)..=(family, u8::MAX)).rev();
        sizes.filter_map(|((_, length), _)| Cidr::new(address, *length).ok()).find_map(|cidr| self.holder(cidr))
    }

    /// Those on which a node has a claim.
    pub(crate) fn of_node(&self, node: &NodeName) -> impl Iterator<Item = Cidr> {
        self.of.get(node).into_iter().flatten().map(|(cidr, _)| *cidr)
    }
}

fn size(cidr: Cidr) -> (Family, u8) {
    (cidr.family(), cidr.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(node: &str, cidr: &str) -> BlockClaim {
        let cidr: Cidr = cidr.parse().expect("a network");
        BlockClaim { name: format!("{node}-{cidr}"), cidr, node: node.into() }
    }

    #[test]
    fn a_block_is_found_by_its_network_by_an_address_of_it_and_by_its_node() {
        let mut blocks = Blocks::default();
        for (node, cidr) in [("n1", "10.65.0.0/26"), ("n2", "10.65.0.64/26"), ("n1", "fd00:65::/122")] {
            assert!(blocks.put(claim(node, cidr)));
            assert!(!blocks.put(claim(node, cidr)), "it was so");
        }
        let holder =
            |blocks: &Blocks, address: &str| blocks.holder_of(address.parse().unwrap()).map(|node| node.0.to_string());
        for (address, node) in [
            ("10.65.0.63", Some("n1")),
            ("10.65.0.64", Some("n2")),
            ("10.65.0.128", None),
            ("fd00:65::3f", Some("n1")),
            ("fd00:65::40", None),
            ("10.64.0.1", None),
        ] {
            assert_eq!(holder(&blocks, address).as_deref(), node, "{address}");
        }
        assert_eq!(blocks.of_node(&"n1".into()).count(), 2);
        let gone = claim("n2", "10.65.0.64/26");
        assert!(blocks.remove(&gone.name) && !blocks.remove(&gone.name));
        assert_eq!((holder(&blocks, "10.65.0.64"), blocks.of_node(&"n2".into()).count()), (None, 0));
    }

    #[test]
    fn of_two_claims_on_a_block_one_counts_in_whatever_order_they_came() {
        let both = [claim("n1", "10.65.0.0/26"), claim("n2", "10.65.0.0/26")];
        for order in [[0, 1], [1, 0]] {
            let mut blocks = Blocks::default();
            order.into_iter().for_each(|index| assert!(blocks.put(both[index].clone())));
            assert_eq!(blocks.holder(both[0].cidr), Some(&"n1".into()));
            blocks.remove(&both[0].name);
            assert_eq!(blocks.holder(both[0].cidr), Some(&"n2".into()), "the other is left");
        }
    }
}
