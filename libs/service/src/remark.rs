//! What the writer of a service should know of it.
//! In: made by the rules of this crate, and by who sees more than a service. Out: a sentence, and what it is about.
//! Invariant: what it is about is one of a few words, by which remarks are counted.
//! Never: a reason not to serve the rest.

use std::fmt;

/// What is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// It has no cluster IP.
    ClusterIp,
    /// It has no ports.
    Ports,
    /// An address of a family that the service does not have.
    Family,
    /// Source ranges that keep nobody out.
    SourceRanges,
    /// A port that no slice's port stands behind.
    PortName,
    /// A frontend that another service has.
    Taken,
    /// Endpoints in no known network.
    Strays,
    /// A node port at which a process of this node listens.
    NodePort,
    /// A port for health checks that cannot be listened at.
    HealthPort,
    /// An address for its load balancer that cannot be had.
    Address,
    /// Slices that would leave the API server's own service without a backend.
    HeldBack,
    /// What the tables have no room for.
    Room,
}

impl About {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ClusterIp,
        Self::Ports,
        Self::Family,
        Self::SourceRanges,
        Self::PortName,
        Self::Taken,
        Self::Strays,
        Self::NodePort,
        Self::HealthPort,
        Self::Address,
        Self::HeldBack,
        Self::Room,
    ];

    /// One word, as metrics have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "cluster-ip",
            Self::Ports => "ports",
            Self::Family => "family",
            Self::SourceRanges => "source-ranges",
            Self::PortName => "port-name",
            Self::Taken => "taken",
            Self::Strays => "strays",
            Self::NodePort => "node-port",
            Self::HealthPort => "health-port",
            Self::Address => "address",
            Self::HeldBack => "held-back",
            Self::Room => "room",
        }
    }
}

/// A remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// What it is about.
    pub about: About,
    /// What is so, and what follows.
    pub text: String,
}

impl Remark {
    /// A remark.
    #[must_use]
    pub fn new(about: About, text: impl Into<String>) -> Self {
        Self { about, text: text.into() }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
