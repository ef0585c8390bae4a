//! What BIRD answers on its control socket.
//! In: lines of its protocol. Out: sessions, as `calicoctl node status` has them.
//! Invariant: a line that is not understood is passed over.
//! Never: asks BIRD.

use crate::peers::Kind;
use serde::Serialize;

/// A reply is over with this one: four digits and a space.
#[must_use]
pub fn is_last(line: &str) -> bool {
    code(line).is_some() && line.as_bytes().get(4) == Some(&b' ')
}

/// The number that a line begins with.
#[must_use]
pub fn code(line: &str) -> Option<u16> {
    line.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// The version in its greeting (`0001 BIRD 2.0.12 ready.`) or of `bird --version` (`BIRD version 2.0.12`).
#[must_use]
pub fn version(text: &str) -> Option<String> {
    let words = text.split_whitespace();
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    words.skip_while(|word| *word != "BIRD").find(is_version).map(str::to_owned)
}

/// The first number of a version.
#[must_use]
pub fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// A session as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// With whom.
    pub peer_address: String,
    /// Why.
    pub peer_type: String,
    /// BIRD's word for it: `up`, `start`, `down`.
    pub state: String,
    /// Since when that is so.
    pub since: String,
    /// What the session does: `Established`, or what keeps it.
    pub info: String,
}

/// The sessions in what `show protocols all` answers.
#[must_use]
pub fn sessions(lines: &[String]) -> Vec<Session> {
    let mut found: Vec<Session> = Vec::new();
    let mut is_ours = false;
    for line in lines {
        let said = match code(line) {
            Some(_) => line.get(5..).unwrap_or_default(),
            None => line.get(1..).unwrap_or_default(),
        };
        if code(line) == Some(1002) {
            let session = row(said);
            is_ours = session.is_some();
            found.extend(session);
        } else if let Some(address) = said.trim().strip_prefix("Neighbor address: ").filter(|_| is_ours)
            && let Some(last) = found.last_mut()
        {
            last.peer_address = address.to_owned();
            last.family = if address.contains(':') { "IPv6" } else { "IPv4" };
        }
    }
    found
}

/// `NAME BGP TABLE STATE DATE TIME INFO`, of a session that the agent asked for.
fn row(said: &str) -> Option<Session> {
    let mut words = said.split_whitespace();
    let name = words.next()?;
    let kind = Kind::ALL.into_iter().find(|kind| name.starts_with(kind.prefix()))?;
    words.next().filter(|word| *word == "BGP")?;
    let state = words.nth(1)?.to_owned();
    let since = [words.next()?, words.next()?].join(" ");
    let info = words.collect::<Vec<_>>().join(" ");
    let peer_address = name[kind.prefix().len()..].to_owned();
    Some(Session { family: "IPv4", peer_address, peer_type: kind.to_string(), state, since, info })
}
