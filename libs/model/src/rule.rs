//! Rules: what a policy asks of a packet, as written, with names not yet resolved.
//! In: converted rules of every kind of policy. Out: tests that are joined by AND, and an action.
//! Invariant: a test that is absent holds for every packet; one that is given and has no entries holds for none.
//! Never: holds addresses of pods; a selector names them. Takes more room than it says something: clusters have them by the
//! ten thousand.

use crate::{Cidr, Family, Labels, PortName, PortRange, Protocol, Selector, ServiceId};
use std::sync::Arc;

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Let through; nothing further is asked in this direction.
    Allow,
    /// Refuse.
    Deny,
    /// Leave the tier: the next one is asked.
    Pass,
    /// Say so, and go on with the next rule.
    Log,
}

/// ICMP messages, of whichever version the packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpMatch {
    /// Their type.
    pub kind: u8,
    /// Their code; `None`: any.
    pub code: Option<u8>,
}

/// A port, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// By number.
    Range(PortRange),
    /// By the name of a container port of the pod that has the port, with the packet's protocol (NP-67, NP-68).
    Named(PortName),
}

/// One end of a packet. Every test that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityMatch {
    /// An endpoint or network set that matches has the address. Host-network pods never do (NP-55).
    pub selector: Option<Arc<Selector>>,
    /// No endpoint or network set that matches has the address (CAL-31).
    pub not_selector: Option<Arc<Selector>>,
    /// A node whose labels match has the address (CNP-12).
    pub nodes: Option<Arc<Selector>>,
    /// Any of these networks has the address. `Some` of an empty list: none has (CAL-27, CAL-28).
    pub nets: Option<Box<[Cidr]>>,
    /// None of these networks has the address; empty: no such test. Given, it holds in the families it names alone: a rule
    /// whose every excepted network is of one family says nothing of the other (felix/rules/policy.go, FilterRuleToIPVersion).
    pub not_nets: Box<[Cidr]>,
    /// Any of these ports. `Some` of an empty list: none.
    pub ports: Option<Box<[PortMatch]>>,
    /// None of these ports; empty: no such test.
    pub not_ports: Box<[PortMatch]>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Index of the rule in the object's own list for the direction: what users are told. Several rules may share one,
    /// since one written rule may become one rule per peer and port entry.
    pub place: u16,
    /// What happens to what matches.
    pub action: Action,
    /// Only packets of this version.
    pub family: Option<Family>,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Any protocol but this.
    pub not_protocol: Option<Protocol>,
    /// Only these ICMP messages.
    pub icmp: Option<IcmpMatch>,
    /// Anything but these ICMP messages.
    pub not_icmp: Option<IcmpMatch>,
    /// Who sends.
    pub source: EntityMatch,
    /// Who receives.
    pub destination: EntityMatch,
    /// Ingress: whoever sends is an endpoint of this service. Egress: it is sent to one, at one of the service's ports (CAL-36).
    pub service: Option<Arc<ServiceId>>,
    /// What its writer noted on it (`metadata.annotations`): shown with the rule, and never asked (CAL-39).
    pub annotations: Labels,
    /// Why the rule could not be read. An unreadable allow matches nothing, an unreadable deny or pass refuses everything
    /// (CNP-10, CAL-18).
    pub unreadable: Option<Box<str>>,
}

impl Rule {
    /// A rule that matches everything.
    #[must_use]
    pub fn new(place: u16, action: Action) -> Self {
        Self {
            place,
            action,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: EntityMatch::default(),
            destination: EntityMatch::default(),
            service: None,
            annotations: Labels::new(),
            unreadable: None,
        }
    }

    /// A rule that could not be read, in its place.
    #[must_use]
    pub fn unreadable(place: u16, action: Action, reason: &impl ToString) -> Self {
        Self { unreadable: Some(reason.to_string().into()), ..Self::new(place, action) }
    }
}
