//! A versioned word: an id, the id before it, and the generation from which the new one counts.
//! In: the generation a packet read once, first. Out: the id that is in force for that packet.
//! Invariant: one aligned 8-byte load gives a whole word; a settled word answers the same for every generation.
//! Never: spans more than half of the 24-bit window; the agent settles words long before.

/// Largest id a word can hold (20 bits).
pub const ID_MAX: u32 = (1 << 20) - 1;
const SINCE_MASK: u64 = (1 << 24) - 1;
const SINCE_HALF: u64 = 1 << 23;

/// `new:20 | old:20 | since:24`, from the high bits down.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// A word that answers `id` for every generation.
    #[must_use]
    pub const fn settled(id: u32) -> Self {
        Self::changing(id, id, 0)
    }

    /// A word that answers `old` before generation `since` and `new` from it on.
    /// Ids are cut to 20 bits; the tables never hand out a larger one ([`ID_MAX`]).
    #[must_use]
    pub const fn changing(old: u32, new: u32, since: u64) -> Self {
        Self(((new & ID_MAX) as u64) << 44 | ((old & ID_MAX) as u64) << 24 | (since & SINCE_MASK))
    }

    /// The id in force at `generation`: the serial comparison of RFC 1982 on 24 bits.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, generation: u64) -> u32 {
        if (generation.wrapping_sub(self.0) & SINCE_MASK) < SINCE_HALF { self.new() } else { self.old() }
    }

    /// The id from `since` on.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::new_ret_no_self, reason = "the newer of the word's two ids, beside `old`; it constructs nothing")]
    pub const fn new(self) -> u32 {
        (self.0 >> 44) as u32
    }

    /// The id before `since`.
    #[inline(always)]
    #[must_use]
    pub const fn old(self) -> u32 {
        (self.0 >> 24) as u32 & ID_MAX
    }

    /// The low 24 bits of the generation from which the new id counts.
    #[must_use]
    pub const fn since(self) -> u32 {
        (self.0 & SINCE_MASK) as u32
    }

    /// Whether the word answers the same for every generation.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        self.new() == self.old()
    }
}

#[cfg(test)]
mod tests {
    use super::Word;

    #[test]
    fn a_changing_word_answers_old_before_and_new_from_its_generation() {
        let word = Word::changing(7, 9, 100);
        assert_eq!([word.at(99), word.at(100), word.at(101)], [7, 9, 9]);
    }

    #[test]
    fn the_window_wraps_with_the_generation() {
        let word = Word::changing(7, 9, 1 << 24);
        assert_eq!([word.at((1 << 24) - 1), word.at(1 << 24), word.at((1 << 24) + 5)], [7, 9, 9]);
    }

    #[test]
    fn a_settled_word_answers_the_same_always() {
        for generation in [0, 1, 1 << 23, (1 << 24) - 1, u64::MAX] {
            assert_eq!(Word::settled(super::ID_MAX).at(generation), super::ID_MAX);
        }
    }
}
