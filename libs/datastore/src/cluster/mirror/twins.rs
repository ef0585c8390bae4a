//! Whether the mirror and the API server say the same now, object by object.
//! In: what each says. Out: yes or no.
//! Invariant: yes only after both have said everything.
//! Never: keeps what they say.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// Who says it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Server,
    Mirror,
}

/// What both have said.
#[derive(Debug, Default)]
pub(super) struct Twins {
    /// A digest of what each side says of a key.
    all: BTreeMap<String, [Option<u64>; 2]>,
    /// Keys of which they do not say the same.
    unlike: usize,
}

impl Twins {
    pub(super) fn say(&mut self, side: Side, key: String, value: Option<&[u8]>) {
        let digest = value.map(|value| {
            let mut hasher = DefaultHasher::new();
            value.hash(&mut hasher);
            hasher.finish()
        });
        let both = self.all.entry(key).or_default();
        self.unlike -= usize::from(both[0] != both[1]);
        both[side as usize] = digest;
        self.unlike += usize::from(both[0] != both[1]);
    }

    /// This side says all that begins so anew.
    pub(super) fn forget(&mut self, side: Side, prefix: &str) {
        self.all.retain(|key, both| {
            if key.starts_with(prefix) {
                self.unlike -= usize::from(both[0] != both[1]);
                both[side as usize] = None;
                self.unlike += usize::from(both[0] != both[1]);
            }
            both.iter().any(Option::is_some)
        });
    }

    pub(super) fn are_alike(&self) -> bool {
        self.unlike == 0
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Side::{Mirror, Server},
        *,
    };

    #[test]
    fn they_are_alike_once_each_has_said_of_every_key_what_the_other_says() {
        let mut twins = Twins::default();
        for key in ["a/1", "a/2", "b/1"] {
            twins.say(Server, key.to_owned(), Some(b"x"));
            assert!(!twins.are_alike());
            twins.say(Mirror, key.to_owned(), Some(b"x"));
            assert!(twins.are_alike());
        }
        twins.say(Server, "a/1".to_owned(), Some(b"y"));
        twins.say(Server, "a/2".to_owned(), None);
        twins.say(Mirror, "a/2".to_owned(), None);
        assert!(!twins.are_alike());
        twins.say(Mirror, "a/1".to_owned(), Some(b"y"));
        assert!(twins.are_alike());
        twins.forget(Server, "a/");
        assert!(!twins.are_alike());
        twins.forget(Mirror, "a/");
        assert!(twins.are_alike(), "both lack it");
        twins.forget(Mirror, "");
        assert!(!twins.are_alike());
    }
}
