//! BIRD's routes, as it lists them.
//! In: lines of `show route`. Out: one value a way: a route with several has one for each.
//! Invariant: a line that is not understood is passed over, with what belongs to it.
//! Never: asks BIRD.

use crate::answer::said;

/// A way to a network, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: String,
    /// By which router; `None`: by none.
    pub gateway: Option<String>,
    /// By which interface; where there is none, BIRD's word for it: `blackhole`, `unreachable`, `prohibit`.
    pub interface: String,
    /// Which of BIRD's protocols knows it: a session, by its name, or another.
    pub learned_by: String,
    /// It is the best to its network.
    pub is_best: bool,
}

/// The routes in what `show route` answers.
#[must_use]
pub fn routes(lines: &[String]) -> Vec<Route> {
    let (mut found, mut head, mut destination) = (Vec::new(), None, String::new());
    for line in lines {
        let said = said(line);
        if let Some(way) = said.strip_prefix('\t') {
            found.extend(head.as_ref().and_then(|head: &Route| by(head, way)));
            continue;
        }
        // A further route to a network does not name it again.
        let (named, rest) = if said.starts_with(' ') { ("", said) } else { split(said) };
        if !named.is_empty() {
            named.clone_into(&mut destination);
        }
        head = row(&destination, rest.trim_start());
        found.extend(head.iter().filter(|head| head.interface != UNICAST).cloned());
    }
    found
}

/// A route whose ways follow.
const UNICAST: &str = "unicast";

fn split(said: &str) -> (&str, &str) {
    said.split_once(' ').unwrap_or((said, ""))
}

/// `KIND [PROTOCOL SINCE] * (PREFERENCE)`.
fn row(destination: &str, said: &str) -> Option<Route> {
    let (kind, rest) = split(said);
    let (within, after) = rest.strip_prefix('[')?.split_once(']')?;
    let learned_by = within.split_whitespace().next()?.to_owned();
    let is_best = after.split_whitespace().next() == Some("*");
    if destination.is_empty() {
        return None;
    }
    Some(Route { destination: destination.to_owned(), gateway: None, interface: kind.to_owned(), learned_by, is_best })
}

/// `via ADDRESS on INTERFACE`, or `dev INTERFACE`.
fn by(head: &Route, way: &str) -> Option<Route> {
    let words: Vec<&str> = way.split_whitespace().collect();
    let (gateway, interface) = match words[..] {
        ["via", gateway, "on", interface, ..] => (Some(gateway.to_owned()), interface.to_owned()),
        ["dev", interface, ..] => (None, interface.to_owned()),
        _ => return None,
    };
    Some(Route { gateway, interface, ..head.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let line = |route: Route| {
            let by = route.gateway.as_deref().unwrap_or("-").to_owned();
            let best = if route.is_best { "best" } else { "other" };
            [&*route.destination, &by, &route.interface, &route.learned_by, best].join(" ")
        };
        routes(&lines).into_iter().map(line).collect()
    }

    #[test]
    fn routes_are_read_from_all_tables_with_each_of_their_ways() {
        let text = "1007-Table master4:
 10.65.0.0/26         blackhole [own4 04:58:22.313] * (200)
 192.0.2.0/24         unicast [direct1 04:58:22.315] * (240)
 \tdev e1
                      unicast [Mesh_192_0_2_2 04:58:22.315 from 192.0.2.2] (100) [AS65000i]
 \tvia 192.0.2.2 on e0
 10.68.0.0/24         unicast [own4 04:58:22.313] * (200)
 \tvia 192.0.2.2 on e1 weight 1
 \tvia 192.0.2.3 on e1 weight 1
 \n Table master6:
 fd00:65::/122        unreachable [own6 04:58:22.313] * (200)
0000 ";
        let expected = [
            "10.65.0.0/26 - blackhole own4 best",
            "192.0.2.0/24 - e1 direct1 best",
            "192.0.2.0/24 192.0.2.2 e0 Mesh_192_0_2_2 other",
            "10.68.0.0/24 192.0.2.2 e1 own4 best",
            "10.68.0.0/24 192.0.2.3 e1 own4 best",
            "fd00:65::/122 - unreachable own6 best",
        ];
        assert_eq!(found(text), expected);
    }

    #[test]
    fn what_is_not_understood_is_passed_over_and_its_ways_are_nobody_elses() {
        let text = "1007-Table master4:
 10.65.0.0/26         blackhole [own4 04:58:22.313] * (200)
 10.66.0.0/26         something else
 \tvia 192.0.2.2 on e0
 \tnot a way
8001 Network not found";
        assert_eq!(found(text), ["10.65.0.0/26 - blackhole own4 best"]);
        assert_eq!(found("0000 "), Vec::<String>::new());
        assert_eq!(found(" \tdev e0"), Vec::<String>::new());
    }
}
