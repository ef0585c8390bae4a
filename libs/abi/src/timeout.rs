//! How long a tracked flow lives without a packet: one number for each kind of flow, which the loader may override.
//! In: what a flow is and has seen. Out: the index under which its lifetime stands in [`Timeouts`].
//! Invariant: index 0 is over at any time, so that an entry of zeros is absent.
//! Never: a lifetime in an entry itself; a changed setting reaches flows that are there already.

/// Name of the programs' global that holds the [`Timeouts`].
pub const TIMEOUTS_GLOBAL: &str = "TIMEOUTS";
/// Name of the programs' global that holds the quota: tracked flows an endpoint may own.
pub const FLOW_QUOTA_GLOBAL: &str = "FLOW_QUOTA";

macro_rules! timeouts {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $seconds:literal;)*) => {
        /// What decides how long an entry lives. The number is what `ConntrackEntry::timeout` holds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Timeout {
            /// As good as absent, whatever the clock says.
            Gone = 0,
            $($(#[$doc])* $name = $number,)*
            /// It lives as long as the entry that it leads to, whatever the clock says.
            Follows = 15,
        }

        impl Timeout {
            /// Those that can be set.
            pub const ALL: &[Timeout] = &[$(Timeout::$name),*];

            /// The name of the setting.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { Timeout::Gone => "gone", Timeout::Follows => "follows", $(Timeout::$name => $text,)* }
            }
        }

        impl Default for Timeouts {
            fn default() -> Self {
                Self::DEFAULT
            }
        }

        impl Timeouts {
            /// Calico's defaults (felix/bpf/conntrack/timeouts/timeouts.go); a refused flow is ours.
            pub const DEFAULT: Self = {
                let mut seconds = [OVER; 16];
                $(seconds[$number] = $seconds;)*
                seconds[Timeout::Follows as usize] = i32::MAX;
                Self(seconds)
            };
        }
    };
}

timeouts! {
    /// TCP before the opener has answered the responder's answer.
    TcpSynSent = 1, "tcpSynSent", 20;
    /// TCP after the handshake, also when one end has said FIN.
    TcpEstablished = 2, "tcpEstablished", 3600;
    /// TCP after both ends have said FIN.
    TcpFinsSeen = 3, "tcpFinsSeen", 30;
    /// TCP after a RST.
    TcpResetSeen = 4, "tcpResetSeen", 40;
    /// UDP.
    Udp = 5, "udp", 60;
    /// ICMP and ICMPv6.
    Icmp = 6, "icmp", 5;
    /// Every other protocol.
    Generic = 7, "generic", 600;
    /// A refused flow, from when it was refused.
    Refused = 8, "refused", 60;
}

/// Less than any number of idle seconds.
const OVER: i32 = i32::MIN;

/// Idle seconds by [`Timeout`]. Sixteen, so that an index is bounded by its lowest bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts(pub [i32; 16]);

impl Timeouts {
    /// Longest lifetime that can be set: 30 days. Clocks are compared by half their circle.
    pub const SECONDS_MAX: u32 = 30 * 86_400;

    /// With another lifetime, [`Self::SECONDS_MAX`] at most.
    #[must_use]
    pub fn with(mut self, timeout: Timeout, seconds: u32) -> Self {
        self.0[timeout as usize] = seconds.min(Self::SECONDS_MAX) as i32;
        self
    }

    /// Idle seconds that an entry with this number lives.
    #[must_use]
    pub const fn seconds(&self, timeout: u8) -> i32 {
        self.0[(timeout & 15) as usize]
    }
}

impl Timeout {
    /// The timeout of a flow of this protocol that was just opened, or that is about to be believed again.
    #[inline(always)]
    #[must_use]
    pub const fn at_opening(protocol: u8) -> Self {
        match protocol {
            6 => Self::TcpSynSent,
            17 => Self::Udp,
            1 | 58 => Self::Icmp,
            _ => Self::Generic,
        }
    }

    /// The same once both ends were heard: only TCP lives longer then.
    #[inline(always)]
    #[must_use]
    pub const fn established(protocol: u8) -> Self {
        match Self::at_opening(protocol) {
            Self::TcpSynSent => Self::TcpEstablished,
            other => other,
        }
    }
}

/// Whether an entry that last moved at `seen_s` and lives `seconds` is as good as absent.
#[inline(always)]
#[must_use]
pub const fn is_over(seen_s: u32, seconds: i32, now_s: u32) -> bool {
    // Signed: a packet on another processor may have been stamped a moment ahead of this one's clock.
    now_s.wrapping_sub(seen_s) as i32 > seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pkt_70_the_defaults_are_calicos() {
        let seconds = |timeout: Timeout| Timeouts::DEFAULT.seconds(timeout as u8);
        let all: [i32; 8] = core::array::from_fn(|number| seconds(Timeout::ALL[number]));
        assert_eq!(all, [20, 3600, 30, 40, 60, 5, 600, 60]);
    }

    #[test]
    fn an_entry_of_zeros_and_one_that_is_gone_are_over_at_any_time() {
        let gone = Timeouts::DEFAULT.seconds(Timeout::Gone as u8);
        for (seen_s, now_s) in [(0, 0), (7, 7), (8, 7), (u32::MAX, 0)] {
            assert!(is_over(seen_s, gone, now_s), "{seen_s} at {now_s}");
        }
    }

    #[test]
    fn an_entry_lives_exactly_its_seconds_also_when_the_clock_wraps() {
        for seen_s in [1000, u32::MAX - 3] {
            assert!(!is_over(seen_s, 20, seen_s.wrapping_add(20)));
            assert!(is_over(seen_s, 20, seen_s.wrapping_add(21)));
            assert!(!is_over(seen_s, 20, seen_s.wrapping_sub(1)), "another processor's clock was ahead");
        }
    }
}
