//! The packet a question is about, as it would stand on the wire.
//! In: a [`Question`] and the MACs. Out: an Ethernet frame with a first packet of its flow.
//! Invariant: as short as the protocol allows; the IPv4 header checksum is right, others are not looked at.
//! Never: sent; a dry twin reads it.

use crate::{Question, TwinError, question::Origin};
use model::{Mac, Protocol};
use std::net::IpAddr;

/// The identifier of messages that have one.
const IDENTIFIER: [u8; 2] = [0, 1];
const SYN: u8 = 0x02;

/// Builds the frame.
///
/// # Errors
/// Source and destination are of two families.
pub fn of(question: &Question, source: Mac, destination: Mac) -> Result<Vec<u8>, TwinError> {
    let payload = payload(question);
    let mut frame = [destination.0, source.0].concat();
    match (question.source, question.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00]);
            frame.extend(v4_header(question.protocol, payload.len(), source.octets(), destination.octets()));
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, payload.len() as u8, question.protocol.0, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => return Err(TwinError::Families),
    }
    frame.extend(payload);
    Ok(frame)
}

fn payload(question: &Question) -> Vec<u8> {
    let (detail, port) = (question.detail.to_be_bytes(), question.source_port.to_be_bytes());
    match question.protocol {
        Protocol::TCP => [&port[..], &detail, &[0; 8], &[0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]].concat(),
        Protocol::UDP => [&port[..], &detail, &[0, 8, 0, 0]].concat(),
        protocol if protocol.has_ports() => [&port[..], &detail, &[0; 8]].concat(),
        Protocol::ICMP | Protocol::ICMPV6 => [&detail[..], &[0, 0], &IDENTIFIER, &[0, 1], &quoted(question)].concat(),
        _ => vec![0; 16],
    }
}

/// What an ICMP error quotes: a datagram that nobody sent. Other messages take it for their data.
fn quoted(question: &Question) -> Vec<u8> {
    let (source, destination) = (question.destination, question.source);
    let from = Origin::Outside(None);
    let about = Question { from, source, destination, protocol: Protocol::UDP, detail: 1, source_port: 1 };
    of(&about, Mac([0; 6]), Mac([0; 6])).map(|frame| frame[14..].to_vec()).unwrap_or_default()
}

fn v4_header(protocol: Protocol, payload: usize, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let length = (20 + payload) as u8;
    let mut header = vec![0x45, 0, 0, length, 0, 1, 0x40, 0, 64, protocol.0, 0, 0];
    header.extend(source);
    header.extend(destination);
    let sum: u32 = header.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(source: &str, destination: &str, protocol: Protocol) -> Question {
        let address = |text: &str| text.parse().expect("a valid address");
        let (source, destination) = (address(source), address(destination));
        let from = Origin::Outside(None);
        Question { from, source, destination, protocol, detail: 80, source_port: 40_000 }
    }

    #[test]
    fn the_headers_say_the_frames_true_length() {
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol(50)] {
            let v4 = of(&question("10.0.0.1", "10.0.0.2", protocol), Mac([2; 6]), Mac([4; 6])).expect("one family");
            assert_eq!(usize::from(v4[17]), v4.len() - 14, "{protocol}");
            let v6 = of(&question("fd00::1", "fd00::2", protocol), Mac([2; 6]), Mac([4; 6])).expect("one family");
            assert_eq!(usize::from(v6[19]), v6.len() - 54, "{protocol}");
        }
    }

    #[test]
    fn two_families_are_no_question() {
        let mixed = question("10.0.0.1", "fd00::2", Protocol::TCP);
        assert!(matches!(of(&mixed, Mac([2; 6]), Mac([4; 6])), Err(TwinError::Families)));
    }
}
