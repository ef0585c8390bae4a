//! Stretches of protocols and ports, as people say them.
//! In: ranges of `x` (see `abi::rules::x_of`). Out: `TCP 80`, `UDP 1-1023`, `every protocol`.
//! Invariant: what is said covers the range, no more and no less.
//! Never: knows who is meant.

use abi::rules::X_END;
use model::Protocol;
use std::ops::Range;

/// Every protocol with every port.
pub const EVERYTHING: Range<u32> = 0..X_END;

/// What a range covers. It is not empty.
#[must_use]
pub fn said(range: &Range<u32>) -> Vec<String> {
    if *range == EVERYTHING {
        return vec!["everything".to_owned()];
    }
    let (first, last) = (range.start, range.end - 1);
    let (from, to) = (protocol(first), protocol(last));
    if from.0 == to.0 {
        return vec![within(from, detail(first), detail(last))];
    }
    let mut parts = Vec::new();
    let mut whole = from.0..=to.0;
    if detail(first) > 0 {
        parts.push(within(from, detail(first), u16::MAX));
        whole = from.0 + 1..=to.0;
    }
    let tail = (detail(last) < u16::MAX).then(|| within(to, 0, detail(last)));
    let end = if tail.is_some() { to.0 - 1 } else { to.0 };
    whole = *whole.start()..=end;
    if !whole.is_empty() {
        parts.push(every(*whole.start(), *whole.end()));
    }
    parts.extend(tail);
    parts
}

fn every(first: u8, last: u8) -> String {
    if first == last {
        return Protocol(first).to_string();
    }
    format!("protocols {first}-{last}")
}

fn within(protocol: Protocol, first: u16, last: u16) -> String {
    if (first, last) == (0, u16::MAX) {
        return protocol.to_string();
    }
    let is_icmp = [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol);
    let one = |detail: u16| match detail.to_be_bytes() {
        [kind, code] if is_icmp => format!("{kind}/{code}"),
        _ => detail.to_string(),
    };
    if first == last {
        format!("{protocol} {}", one(first))
    } else {
        format!("{protocol} {}-{}", one(first), one(last))
    }
}

fn protocol(x: u32) -> Protocol {
    Protocol(u8::try_from(x >> 16).unwrap_or(u8::MAX))
}

fn detail(x: u32) -> u16 {
    u16::try_from(x & 0xffff).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::rules::x_of;

    #[test]
    fn a_stretch_is_said_by_protocols_and_ports() {
        let x = |protocol: Protocol, port| x_of(protocol.0, port);
        let rows = [
            (EVERYTHING, "everything"),
            (x(Protocol::TCP, 80)..x(Protocol::TCP, 81), "TCP 80"),
            (x(Protocol::UDP, 0)..x(Protocol::UDP, u16::MAX) + 1, "UDP"),
            (0..x(Protocol::TCP, 80), "protocols 0-5, TCP 0-79"),
            (x(Protocol::TCP, 81)..X_END, "TCP 81-65535, protocols 7-255"),
            (x(Protocol::ICMP, 0x0800)..x(Protocol::ICMP, 0x0801), "ICMP 8/0"),
            (x(Protocol::TCP, 0)..x(Protocol(8), 0), "protocols 6-7"),
            (x(Protocol::TCP, 5)..x(Protocol(7), 1), "TCP 5-65535, 7 0"),
        ];
        for (range, wanted) in rows {
            assert_eq!(said(&range).join(", "), wanted, "{range:?}");
        }
    }
}
