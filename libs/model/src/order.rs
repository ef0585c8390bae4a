//! Order: who is asked first.
//! In: the `order` of a tier or policy, if it has one. Out: a value with a total order.
//! Invariant: lower is asked first, unset last; `-0` is `0` (felix/calc/policy_sorter.go).
//! Never: a tie; names break those, and the caller knows them.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

/// Precedence of a tier among tiers, or of a policy within its tier.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// A given order.
    At(f64),
    /// No order given: after all others.
    Unset,
}

impl Order {
    /// Where Kubernetes NetworkPolicies stand (CAL-16; libcalico-go conversion.go).
    pub const KUBERNETES: Self = Self::At(1000.0);

    /// The order that was given. `None`: it is no finite number, and stands nowhere.
    #[must_use]
    pub fn at(number: f64) -> Option<Self> {
        number.is_finite().then_some(Self::At(number))
    }

    /// Adding zero makes `0` of `-0`.
    fn key(self) -> Option<f64> {
        match self {
            Self::At(number) => Some(number + 0.0),
            Self::Unset => None,
        }
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.key(), other.key()) {
            (Some(one), Some(other)) => one.total_cmp(&other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Order {}

impl Hash for Order {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().map(f64::to_bits).hash(state);
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(number) => number.fmt(f),
            Self::Unset => f.write_str("unset"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cal_1_lower_is_first_and_unset_last() {
        let mut orders = [Order::Unset, Order::At(1000.0), Order::At(-1.5), Order::At(0.25), Order::At(1e30)];
        orders.sort();
        assert_eq!(orders.map(|order| order.to_string()).join(" "), format!("-1.5 0.25 1000 {} unset", 1e30));
    }

    #[test]
    fn zero_is_zero_and_what_is_no_number_stands_nowhere() {
        assert_eq!(Order::At(-0.0), Order::At(0.0));
        assert!(Order::at(f64::NAN).is_none() && Order::at(f64::INFINITY).is_none());
    }
}
