//! Sizes of the maps: asked for in the settings, or as they are.
//! In: `mapEntries`. Out: entries of every map, or the first setting that makes no sense.
//! Invariant: what is asked for is checked as a whole before the kernel is asked for anything.
//! Never: decides what a full map means.

use abi::{
    endpoint::SLOT_FIRST,
    maps::{self, MAPS, MapSpec, Sizing},
    word::ID_MAX,
};
use std::collections::BTreeMap;

/// Sizes by map name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes(pub BTreeMap<&'static str, u32>);

/// A size that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No such map.
    #[error("there is no table {name}; there are {}", settable().join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The map has no setting.
    #[error("{map} has no size of its own: {why}")]
    NotSettable {
        /// The map.
        map: &'static str,
        /// Where its size comes from.
        why: String,
    },
    /// Too small, alone or beside another.
    #[error("{map}={entries}: it needs at least {least}, for {why}")]
    TooSmall {
        /// The map.
        map: &'static str,
        /// What was asked for.
        entries: u32,
        /// What would do.
        least: u32,
        /// Why.
        why: String,
    },
    /// Its numbers would not fit where they are written.
    #[error("{map}={entries}: at most {most}, the numbers that the tables can hold")]
    TooLarge {
        /// The map.
        map: &'static str,
        /// What was asked for.
        entries: u32,
        /// What would do.
        most: u32,
    },
}

/// Names that `mapEntries` takes.
fn settable() -> Vec<&'static str> {
    let own = MAPS.iter().filter(|map| matches!(map.sizing, Sizing::Setting | Sizing::CoversEndpoints));
    own.map(|map| map.name).collect()
}

/// Maps whose index is an id of a [`abi::Word`].
const NUMBERED: [MapSpec; 2] = [maps::ENDPOINTS, maps::SETS];

impl Sizes {
    /// Entries of a map.
    #[must_use]
    pub fn of(&self, map: &MapSpec) -> u32 {
        self.0.get(map.name).copied().unwrap_or(map.default_entries)
    }

    /// What these settings ask for.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn asked(given: &BTreeMap<String, u32>) -> Result<Self, SizeError> {
        if let Some(name) = given.keys().find(|name| MAPS.iter().all(|map| map.name != name.as_str())) {
            return Err(SizeError::Unknown { name: name.clone() });
        }
        let set = |map: &MapSpec| given.get(map.set_by()).copied();
        let [endpoints, flows] =
            [&maps::ENDPOINTS, &maps::CONNTRACK].map(|map| set(map).unwrap_or(map.default_entries));
        let entries = |map: &MapSpec| (map.name, map.entries(set(map), endpoints, flows));
        let sizes = Self(MAPS.iter().map(entries).collect());
        MAPS.iter().filter(|map| given.contains_key(map.name)).try_for_each(|map| sizes.check(map))?;
        Ok(sizes)
    }

    fn check(&self, map: &MapSpec) -> Result<(), SizeError> {
        let entries = self.of(map);
        let at_least = |least: u32, why: &str| {
            let error = SizeError::TooSmall { map: map.name, entries, least, why: why.to_owned() };
            if entries < least { Err(error) } else { Ok(()) }
        };
        let not_settable = |why: String| Err(SizeError::NotSettable { map: map.name, why });
        match map.sizing {
            Sizing::PerEndpoint(_) => return not_settable("it follows ENDPOINTS".to_owned()),
            Sizing::PerFlow(_) => return not_settable("it follows CONNTRACK".to_owned()),
            Sizing::As(other) => return not_settable(format!("it follows {other}")),
            Sizing::Fixed => return not_settable("there is one size for it".to_owned()),
            Sizing::CoversEndpoints => at_least(
                self.of(&maps::ENDPOINTS).saturating_sub(SLOT_FIRST),
                "every slot of ENDPOINTS is to have its own",
            )?,
            Sizing::Setting => {}
        }
        match map.name {
            "ENDPOINTS" => at_least(SLOT_FIRST + 1, "one pod beside nobody and this node")?,
            "SETS" => at_least(2, "one rule set beside the one that refuses")?,
            _ => at_least(1, "anything at all")?,
        }
        let most = ID_MAX + 1;
        if NUMBERED.contains(map) && entries > most {
            return Err(SizeError::TooLarge { map: map.name, entries, most });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(given: &[(&str, u32)]) -> Result<Sizes, String> {
        let given = given.iter().map(|(name, entries)| ((*name).to_owned(), *entries)).collect();
        Sizes::asked(&given).map_err(|error| error.to_string())
    }

    #[test]
    fn every_map_that_has_a_setting_takes_it_and_no_other_does() {
        for map in MAPS {
            let large = map.default_entries + 8;
            match (map.sizing, asked(&[(map.name, large)])) {
                (Sizing::Setting | Sizing::CoversEndpoints, sizes) => {
                    assert_eq!(sizes.expect(map.name).of(map), large);
                }
                (Sizing::PerEndpoint(_) | Sizing::PerFlow(_) | Sizing::As(_) | Sizing::Fixed, Err(error)) => {
                    assert!(error.contains(map.name), "{error}")
                }
                (_, Ok(_)) => panic!("{} took a size", map.name),
            }
        }
    }

    #[test]
    fn what_counts_for_another_map_is_as_large() {
        let sizes = asked(&[("BACKENDS", 500_000)]).expect("a sensible size");
        assert_eq!((sizes.of(&maps::BACKEND_COUNTS), sizes.of(&maps::FRONTEND_COUNTS)), (500_000, 32_768));
    }

    #[test]
    fn what_follows_the_endpoints_grows_with_them() {
        let sizes = asked(&[("ENDPOINTS", 5000)]).expect("a sensible size");
        assert_eq!(sizes.of(&maps::INTERFACES), 5000);
        assert_eq!(sizes.of(&maps::DROPS), 5001 * abi::verdict::DROP_REASONS);
    }

    #[test]
    fn sizes_without_sense_say_what_would_do() {
        for (given, parts) in [
            (&[("NOTHING", 1)][..], ["NOTHING", "CONNTRACK"]),
            (&[("DROPS", 64)], ["DROPS", "follows ENDPOINTS"]),
            (&[("CTQ", 64)], ["CTQ", "follows CONNTRACK"]),
            (&[("BACKEND_COUNTS", 64)], ["BACKEND_COUNTS", "follows BACKENDS"]),
            (&[("GENERATION", 2)], ["GENERATION", "one size"]),
            (&[("ENDPOINTS", 2)], ["ENDPOINTS=2", "at least 3"]),
            (&[("ENDPOINTS", 100), ("INTERFACES", 97)], ["INTERFACES=97", "at least 98"]),
            (&[("SETS", 1)], ["SETS=1", "at least 2"]),
            (&[("SETS", (1 << 20) + 1)], ["SETS=1048577", "at most 1048576"]),
            (&[("HITS", 0)], ["HITS=0", "at least 1"]),
        ] {
            let error = asked(given).expect_err("no sense");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
        assert!(asked(&[("ENDPOINTS", 100), ("INTERFACES", 98)]).is_ok());
        assert!(asked(&[("SETS", 1 << 20)]).is_ok());
    }
}
