//! Every map: its name, the version of its layout, its default size and what happens when it is full.
//! In: nothing. Out: [`MAPS`], from which pins, `show` and the loader take their names and sizes.
//! Invariant: a layout that changes raises that map's version, so an upgrade shares what did not change.
//! Never: two maps with one name; a map without a bound.

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
}

macro_rules! maps {
    ($($(#[$doc:meta])* $constant:ident = $name:literal v $version:literal, $entries:expr, $full:literal;)*) => {
        $($(#[$doc])* pub const $constant: MapSpec =
            MapSpec { name: $name, version: $version, default_entries: $entries, when_full: $full };)*
        /// All maps.
        pub const MAPS: &[MapSpec] = &[$($constant),*];
    };
}

maps! {
    /// `u32` 0 -> `u64` generation: the one word that puts a commit in force. Memory-mappable array.
    GENERATION = "GENERATION" v 1, 1, "never";
    /// Slot -> [`crate::Endpoint`]. Memory-mappable array.
    ENDPOINTS = "ENDPOINTS" v 1, 1024, "the new endpoint's ADD is refused: try again later";
    /// Interface index `u32` -> slot `u32`. Hash.
    INTERFACES = "INTERFACES" v 1, 1024, "the new endpoint's ADD is refused: try again later";
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
    /// [`crate::FlowKey`] -> [`crate::ConntrackEntry`]. Hash, preallocated.
    CONNTRACK = "CONNTRACK" v 1, 524_288, "new flows are refused with reason conntrack-full";
    /// [`crate::FragmentKey`] -> [`crate::FragmentPorts`]. Least-recently-used hash.
    FRAGMENTS = "FRAGMENTS" v 1, 4096, "the oldest packet's later fragments are dropped";
    /// Hit id -> packets `u64`. Per-CPU array.
    HITS = "HITS" v 1, 65_536, "rules past the end share hit 0 and are not counted apart";
    /// `slot * DROP_REASONS + reason` -> packets `u64`. Per-CPU array.
    DROPS = "DROPS" v 1, 1024 * crate::verdict::DROP_REASONS, "never: sized with ENDPOINTS";
}
