//! The kernel's tables, copied into a node in memory: so that the stages built for the host can be asked the same.
//! In: the tables of a commit. Out: a node with equal ones, without flows.
//! Invariant: everything that a commit writes is copied; what packets write is not.
//! Never: writes to the kernel.

use super::{Kernel, map};
use abi::{Address, Endpoint, NetKey, RowKey, RowRef, SetEntry, Span, address::ClassEntry, maps};
use aya::{
    Pod,
    maps::{Array, HashMap, MapData, lpm_trie::LpmTrie},
};
use ebpf::fake::Node;

impl Kernel {
    /// A node with the tables that are in force.
    pub fn mirror(&self) -> Node {
        let mut node = Node::new();
        node.generation.set(self.array::<u64>(&maps::GENERATION)[0]);
        node.endpoints = self.array::<Endpoint>(&maps::ENDPOINTS);
        node.classes = self.array::<ClassEntry>(&maps::CLASSES);
        node.sets = self.array::<SetEntry>(&maps::SETS);
        node.spans = self.array::<Span>(&maps::SPANS);
        node.interfaces = self.hash::<u32, u32>(&maps::INTERFACES).collect();
        node.addresses = self.hash::<Address, u32>(&maps::ADDRESSES).collect();
        node.rows = self.hash::<RowKey, RowRef>(&maps::ROWS).collect();
        let nets: LpmTrie<&MapData, Address, u32> = map(&self.programs, &maps::NETS);
        let net = |prefix_len, address: Address| NetKey { prefix_len, address: address.to_bytes() };
        let found = nets.iter().filter_map(Result::ok);
        node.nets = found.map(|(key, class)| (net(key.prefix_len(), key.data()), class)).collect();
        node
    }

    /// The elements of an array, up to the last that is not empty.
    fn array<V: Pod + Default + PartialEq>(&self, spec: &maps::MapSpec) -> Vec<V> {
        let array: Array<&MapData, V> = map(&self.programs, spec);
        let found = (0..array.len()).map(|index| array.get(&index, 0).expect("an array has every element"));
        let mut found: Vec<V> = found.collect();
        let filled = found.iter().rposition(|value| *value != V::default()).map_or(0, |last| last + 1);
        found.truncate(filled);
        found
    }

    fn hash<K: Pod, V: Pod>(&self, spec: &maps::MapSpec) -> impl Iterator<Item = (K, V)> {
        let hash: HashMap<&MapData, K, V> = map(&self.programs, spec);
        let found: Vec<_> = hash.iter().map(|entry| entry.expect("nobody writes meanwhile")).collect();
        found.into_iter()
    }
}
