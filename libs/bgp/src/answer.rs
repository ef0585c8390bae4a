//! What BIRD answers on its control socket.
//! In: lines of its protocol. Out: how it is itself; sessions, as `calicoctl node status` has them; routes.
//! Invariant: a line that is not understood is passed over.
//! Never: asks BIRD.

use crate::peers::Kind;
pub use crate::routes::routes;
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

/// The text of a line without what the protocol puts before it.
pub(crate) fn said(line: &str) -> &str {
    let before = if code(line).is_some() { 5 } else { 1 };
    line.get(before..).unwrap_or_default()
}

/// How BIRD itself is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    /// As it says itself.
    pub version: Option<String>,
    /// By what its peers know it.
    pub router_id: Option<String>,
    /// When it was started, in its own form.
    pub booted: Option<String>,
    /// When it was told its configuration last.
    pub reconfigured: Option<String>,
}

/// What `show status` answers.
#[must_use]
pub fn daemon(lines: &[String]) -> Daemon {
    let after = |before: &str| lines.iter().find_map(|line| said(line).strip_prefix(before)).map(str::to_owned);
    Daemon {
        version: lines.iter().find_map(|line| version(said(line))),
        router_id: after("Router ID is "),
        booted: after("Last reboot on "),
        reconfigured: after("Last reconfiguration on "),
    }
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
    /// Its name in BIRD.
    #[serde(skip)]
    pub name: String,
    /// Why, as a value.
    #[serde(skip)]
    pub kind: Kind,
    /// Where it is between two speakers (RFC 4271), in BIRD's words.
    #[serde(skip)]
    pub bgp_state: String,
}

/// The sessions in what `show protocols all` answers.
#[must_use]
pub fn sessions(lines: &[String]) -> Vec<Session> {
    let mut found: Vec<Session> = Vec::new();
    let mut is_ours = false;
    for line in lines {
        let said = said(line);
        if code(line) == Some(1002) {
            let session = row(said);
            is_ours = session.is_some();
            found.extend(session);
        } else if let Some(last) = found.last_mut().filter(|_| is_ours) {
            detail(last, said.trim());
        }
    }
    found
}

fn detail(session: &mut Session, said: &str) {
    if let Some(address) = said.strip_prefix("Neighbor address: ") {
        session.peer_address = address.to_owned();
        session.family = if address.contains(':') { "IPv6" } else { "IPv4" };
    } else if let Some(state) = said.strip_prefix("BGP state:") {
        session.bgp_state = state.trim().to_owned();
    }
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
    let (name, bgp_state) = (name.to_owned(), String::new());
    let (family, peer_type) = ("IPv4", kind.to_string());
    Some(Session { family, peer_address, peer_type, state, since, info, name, kind, bgp_state })
}
