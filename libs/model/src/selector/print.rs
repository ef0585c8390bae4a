//! Printing: a selector's canonical text, as Calico's own parser prints it (SEL-3, SEL-4).
//! In: a selector. Out: text that is read back as the same selector.
//! Invariant: a conjunction or disjunction stands in parentheses, operators between single blanks, values in order.
//! Never: escapes; a value with a double quote in it stands in single ones.

use super::Selector;
use std::fmt;

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Equals(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEquals(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => {
                write!(f, "{key} in ")?;
                joined(f, ["{", ", ", "}"], values.iter().map(|value| Quoted(value)))
            }
            Self::NotIn(key, values) => {
                write!(f, "{key} not in ")?;
                joined(f, ["{", ", ", "}"], values.iter().map(|value| Quoted(value)))
            }
            Self::Contains(key, value) => write!(f, "{key} contains {}", Quoted(value)),
            Self::StartsWith(key, value) => write!(f, "{key} starts with {}", Quoted(value)),
            Self::EndsWith(key, value) => write!(f, "{key} ends with {}", Quoted(value)),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(parts) => joined(f, ["(", " && ", ")"], parts.iter()),
            Self::Or(parts) => joined(f, ["(", " || ", ")"], parts.iter()),
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    [open, between, close]: [&str; 3],
    parts: impl Iterator<Item = impl fmt::Display>,
) -> fmt::Result {
    f.write_str(open)?;
    for (number, part) in parts.enumerate() {
        f.write_str(if number == 0 { "" } else { between })?;
        part.fmt(f)?;
    }
    f.write_str(close)
}
