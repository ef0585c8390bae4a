//! Three-valued truth: what can be said while not everything is known.
//! In: answers about parts. Out: the answer about the whole (Kleene's logic).
//! Invariant: `Yes` and `No` hold whatever the unknown turns out to be.
//! Never: a bool by itself; who asks says which way an unknown answer counts.

/// An answer. Ordered, so that "and" is the least and "or" the greatest of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use]
pub enum Truth {
    /// Certainly not.
    No,
    /// It depends on what is not known.
    Unknown,
    /// Certainly.
    Yes,
}

impl Truth {
    /// Whatever the unknown is: for what lets traffic through.
    #[must_use]
    pub fn surely(self) -> bool {
        self == Self::Yes
    }

    /// Unless it is ruled out: for what keeps traffic out.
    #[must_use]
    pub fn possibly(self) -> bool {
        self != Self::No
    }

    /// The opposite answer.
    pub fn negated(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
            Self::Yes => Self::No,
        }
    }

    /// Whether all hold. Stops at the first that does not.
    pub fn all(parts: impl Iterator<Item = Self>) -> Self {
        let mut whole = Self::Yes;
        for part in parts {
            whole = whole.min(part);
            if whole == Self::No {
                break;
            }
        }
        whole
    }

    /// Whether any holds. Stops at the first that does.
    pub fn any(parts: impl Iterator<Item = Self>) -> Self {
        Self::all(parts.map(Self::negated)).negated()
    }
}

impl From<bool> for Truth {
    fn from(known: bool) -> Self {
        if known { Self::Yes } else { Self::No }
    }
}
