//! Every map: its name, the version of its layout, its default size and what happens when it is full.
//! In: nothing. Out: [`MAPS`], from which pins, `show` and the loader take their names and sizes.
//! Invariant: a layout that changes raises that map's version, so an upgrade shares what did not change.
//! Never: two maps with one name; a map without a bound.

use crate::verdict::DROP_REASONS;

/// One map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name of the kernel object, at most 15 characters; the pin is `NAME-vVERSION`.
    pub name: &'static str,
    /// Version of the layout of key and value.
    pub version: u32,
    /// Entries, unless configured otherwise.
    pub default_entries: u32,
    /// What a full map means.
    pub when_full: &'static str,
    /// Where its size comes from.
    pub sizing: Sizing,
}

/// Where a map's size comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizing {
    /// A setting of its own.
    Setting,
    /// A setting of its own, which covers every endpoint; without one it grows with `ENDPOINTS`.
    CoversEndpoints,
    /// So many entries for each slot of `ENDPOINTS`, and once more for all endpoints that are gone.
    PerEndpoint(u32),
    /// So many entries for each of `CONNTRACK`.
    PerFlow(u32),
    /// As many entries as the map of this name, which has a setting.
    As(&'static str),
    /// It has one size.
    Fixed,
}

impl MapSpec {
    /// The name of the map whose setting counts for this one.
    #[must_use]
    pub const fn set_by(&self) -> &'static str {
        match self.sizing {
            Sizing::As(other) => other,
            _ => self.name,
        }
    }

    /// Entries of this map where `given` is set for it, on a node of so many endpoint slots and tracked flows.
    #[must_use]
    pub const fn entries(&self, given: Option<u32>, endpoints: u32, flows: u32) -> u32 {
        match (self.sizing, given) {
            (Sizing::Setting | Sizing::CoversEndpoints | Sizing::As(_), Some(entries)) => entries,
            (Sizing::CoversEndpoints, None) if endpoints > self.default_entries => endpoints,
            (Sizing::PerEndpoint(each), _) => each.saturating_mul(endpoints.saturating_add(1)),
            (Sizing::PerFlow(each), _) => each.saturating_mul(flows),
            _ => self.default_entries,
        }
    }
}

macro_rules! maps {
    (@sizing) => { Sizing::Setting };
    (@sizing $sizing:expr) => { $sizing };
    ($($(#[$doc:meta])* $constant:ident = $name:literal v $version:literal, $entries:expr, $full:literal $(, $sizing:expr)?;)*) => {
        $($(#[$doc])* pub const $constant: MapSpec = MapSpec {
            name: $name, version: $version, default_entries: $entries, when_full: $full, sizing: maps!(@sizing $($sizing)?),
        };)*
        /// All maps.
        pub const MAPS: &[MapSpec] = &[$($constant),*];
    };
}

maps! {
    /// `u32` 0 -> `u64` generation: the one word that puts a commit in force. Memory-mappable array.
    GENERATION = "GENERATION" v 1, 1, "never", Sizing::Fixed;
    /// Slot -> [`crate::Endpoint`]. Memory-mappable array.
    ENDPOINTS = "ENDPOINTS" v 1, 1024, "the new endpoint's ADD is refused: try again later";
    /// Interface index `u32` -> slot `u32`. Hash.
    INTERFACES = "INTERFACES" v 1, 1024, "the new endpoint's ADD is refused: try again later", Sizing::CoversEndpoints;
    /// [`crate::Address`] -> slot of `CLASSES` `u32`. Hash.
    ADDRESSES = "ADDRESSES" v 1, 131_072, "the commit is refused, the previous revision stays";
    /// [`crate::NetKey`] -> slot of `CLASSES` `u32`. Longest-prefix trie, not preallocated.
    NETS = "NETS" v 1, 131_072, "the commit is refused, the previous revision stays";
    /// Slot -> [`crate::ClassEntry`]. Memory-mappable array.
    CLASSES = "CLASSES" v 1, 262_144, "the commit is refused, the previous revision stays";
    /// Rule set id -> [`crate::SetEntry`]. Array.
    SETS = "SETS" v 1, 4096, "the commit is refused, the previous revision stays";
    /// [`crate::RowKey`] -> [`crate::RowRef`]. Hash.
    ROWS = "ROWS" v 1, 262_144, "the commit is refused, the previous revision stays";
    /// Index -> [`crate::Span`]. Memory-mappable array.
    SPANS = "SPANS" v 1, 4_194_304, "the commit is refused, the previous revision stays";
    /// [`crate::FlowKey`] -> [`crate::ConntrackEntry`], flows that both ends talk in. Hash, preallocated.
    CONNTRACK = "CONNTRACK" v 2, 524_288, "new flows are refused with reason conntrack-full";
    /// [`crate::FlowKey`] -> [`crate::ConntrackEntry`], half-open and one-way flows. Least-recently-used hash.
    NEWFLOW = "NEWFLOW" v 1, 131_072, "the flow that was half-open longest is forgotten";
    /// [`crate::Ticket`]s of `CONNTRACK`, in the order in which they are looked at. Queue.
    CTQ = "CTQ" v 1, 2 * CONNTRACK.default_entries, "never: twice the entries of CONNTRACK", Sizing::PerFlow(2);
    /// Slot -> entries of `CONNTRACK` it owns, `u64`; 0: all. Memory-mappable array.
    QUOTA = "QUOTA" v 1, ENDPOINTS.default_entries + 1, "never: sized with ENDPOINTS", Sizing::PerEndpoint(1);
    /// `u32` 0 -> the timer that moves the cursor over `CTQ`. Array.
    EXPIRY = "EXPIRY" v 1, 1, "never", Sizing::Fixed;
    /// `u32` 0 -> `u32` seconds, which the cursor over tracked flows writes at every tick. Memory-mappable array.
    CLOCK = "CLOCK" v 1, 1, "never", Sizing::Fixed;
    /// [`crate::FragmentKey`] -> [`crate::FragmentPorts`]. Least-recently-used hash.
    FRAGMENTS = "FRAGMENTS" v 2, 4096, "the oldest packet's later fragments are dropped";
    /// Hit id -> packets `u64`. Per-CPU array.
    HITS = "HITS" v 1, 65_536, "rules past the end share hit 0 and are not counted apart";
    /// `slot * DROP_REASONS + reason` -> packets `u64`. Per-CPU array. The row after the last slot is the account of
    /// endpoints that are gone, so that no sum over all rows goes backwards.
    DROPS = "DROPS" v 2, (ENDPOINTS.default_entries + 1) * DROP_REASONS, "never: sized with ENDPOINTS",
        Sizing::PerEndpoint(DROP_REASONS);
    /// 0 (IPv4), 1 (IPv6) -> [`crate::Address`] this node's ICMP errors come from; zero: unknown. Array.
    SOURCES = "SOURCES" v 1, 2, "never", Sizing::Fixed;
    /// 0 (IPv4), 1 (IPv6) -> [`crate::Masquerade`]: as whom this node stands for its pods outside; zero: as nobody. Array.
    MASQUERADE = "MASQUERADE" v 2, 2, "never", Sizing::Fixed;
    /// `2 * slot`, one more for errors that go out by the uplink -> `u64` nanoseconds: until when errors about the
    /// endpoint's packets are paid for. Array.
    ICMP_BUDGETS = "ICMP_BUDGETS" v 1, 2 * (ENDPOINTS.default_entries + 1), "never: sized with ENDPOINTS",
        Sizing::PerEndpoint(2);
    /// [`crate::ServiceKey`] -> slot of `FRONTENDS` `u32`. Hash.
    SERVICES = "SERVICES" v 1, 32_768, "the commit is refused, the previous revision stays";
    /// Slot -> [`crate::Frontend`]; 0: whether there are any. Memory-mappable array.
    FRONTENDS = "FRONTENDS" v 1, 32_768, "the commit is refused, the previous revision stays";
    /// Balancer id -> [`crate::Balancer`]. Memory-mappable array.
    BALANCERS = "BALANCERS" v 1, 32_768, "the commit is refused, the previous revision stays";
    /// Index -> [`crate::Member`]. Memory-mappable array.
    MEMBERS = "MEMBERS" v 1, 524_288, "the commit is refused, the previous revision stays";
    /// Slot -> [`crate::Backend`]. Memory-mappable array.
    BACKENDS = "BACKENDS" v 1, 131_072, "the commit is refused, the previous revision stays";
    /// [`crate::AffinityKey`] -> [`crate::Affinity`]. Least-recently-used hash.
    AFFINITY = "AFFINITY" v 1, 32_768, "the client that was silent longest may be sent to another backend";
    /// Slot of `FRONTENDS` -> [`crate::FrontendCounts`]. Memory-mappable array.
    FRONTEND_COUNTS = "FRONTEND_COUNTS" v 1, FRONTENDS.default_entries, "never: sized with FRONTENDS",
        Sizing::As(FRONTENDS.name);
    /// Slot of `BACKENDS` -> flows opened to it `u64`. Memory-mappable array.
    BACKEND_COUNTS = "BACKEND_COUNTS" v 1, BACKENDS.default_entries, "never: sized with BACKENDS",
        Sizing::As(BACKENDS.name);
    /// `u32` 0 -> [`crate::Announcing`]: where, and until when, the addresses of `ANNOUNCED` are answered for. Array.
    ANNOUNCING = "ANNOUNCING" v 1, 1, "never", Sizing::Fixed;
    /// [`crate::Address`] -> `ANNOUNCED_LEASED` or `ANNOUNCED_ENDPOINT`. Hash.
    ANNOUNCED = "ANNOUNCED" v 2, 4096, "further addresses are left to other nodes; those of pods go before", Sizing::Fixed;
    /// [`crate::SocketKey`] -> [`crate::SocketPeer`]. Least-recently-used hash.
    SOCKETS = "SOCKETS" v 1, 32_768, "the socket of this node that was silent longest hears its backend's own address";
    /// [`crate::NetKey`] -> [`crate::TunnelEnd`]: behind which node a network lies. Longest-prefix trie, not preallocated.
    TUNNELS = "TUNNELS" v 2, 131_072, "further networks of other nodes are not reached by tunnels";
    /// 0 (IPv4), 1 (IPv6) -> [`crate::TunnelLocal`]: from where, and in which network, this node's wrapped packets come. Array.
    TUNNEL_LOCAL = "TUNNEL_LOCAL" v 2, 2, "never", Sizing::Fixed;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_without_a_setting_has_the_size_it_is_documented_with() {
        for map in MAPS {
            let entries = map.entries(None, ENDPOINTS.default_entries, CONNTRACK.default_entries);
            assert_eq!(entries, map.default_entries, "{}", map.name);
        }
    }

    #[test]
    fn what_is_sized_with_the_endpoints_follows_them() {
        assert_eq!(DROPS.entries(Some(1), 9, 8), 10 * DROP_REASONS, "a setting of its own is not looked at");
        assert_eq!((INTERFACES.entries(None, 4096, 8), INTERFACES.entries(Some(7), 9, 8)), (4096, 7));
        assert_eq!((SPANS.entries(Some(9), 4096, 8), GENERATION.entries(Some(9), 4096, 8)), (9, 1));
        assert_eq!((CTQ.entries(Some(9), 4096, 8), QUOTA.entries(Some(9), 4096, 8)), (16, 4097));
        assert_eq!((BACKEND_COUNTS.set_by(), BACKEND_COUNTS.entries(Some(7), 9, 8)), (BACKENDS.name, 7));
    }
}
