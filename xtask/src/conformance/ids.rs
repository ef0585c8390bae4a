//! Ids of behaviours, read out of the names of tests and of rows.
//! In: a name. Out: the ids it carries.
//! Invariant: an id stands first, behind another id, or behind "and": a word in the middle of a sentence is none.
//! A number alone belongs to the id before it, if it is a greater one: so `cni_83_1_1_0_..` is about version 1.1.0.
//! A family may have a letter before its numbers: `cni_e11_..` is CNI-E11, `np_h2_..` is NP-H2.
//! Never: knows what an id means.

/// A kind of behaviour and its numbers.
pub struct Family {
    /// What an id begins with.
    pub prefix: &'static str,
    /// What the behaviours are about.
    pub subject: &'static str,
    /// Who checks them, or where they are written down.
    pub source: &'static str,
    /// The numbers that exist, first and last of each stretch.
    pub known: &'static [(u32, u32)],
}

/// Every family, in the order of the page.
pub const FAMILIES: [Family; 16] = [
    Family {
        prefix: "NP",
        subject: "Kubernetes NetworkPolicy v1",
        source: "Kubernetes' end-to-end network policy suite, and the API's documentation",
        known: &[(1, 46), (50, 72)],
    },
    Family {
        prefix: "NP-H",
        subject: "how Kubernetes' suite measures",
        source: "the harness of the end-to-end suite",
        known: &[(1, 6)],
    },
    Family {
        prefix: "CYC",
        subject: "NetworkPolicy, generated cases",
        source: "Cyclonus' recipes and conflict cases",
        known: &[(1, 12)],
    },
    Family {
        prefix: "CNP",
        subject: "ClusterNetworkPolicy v1alpha2",
        source: "the API's types and documentation, and Calico's converter",
        known: &[(1, 20), (30, 37)],
    },
    Family {
        prefix: "CNPT",
        subject: "ClusterNetworkPolicy, conformance suites",
        source: "the API's conformance tests",
        known: &[(1, 9)],
    },
    Family {
        prefix: "CNI",
        subject: "the plugin's process, commands and results",
        source: "CNI specification 1.1.0, and the reference plugins' tests",
        known: &[(1, 15), (20, 30), (40, 48), (50, 56), (60, 66), (70, 73), (80, 86), (90, 97)],
    },
    Family {
        prefix: "CNI-E",
        subject: "the plugin's error codes",
        source: "CNI specification 1.1.0",
        known: &[(1, 8), (11, 11), (50, 51), (99, 99)],
    },
    Family {
        prefix: "CALC",
        subject: "how Calico's CNI plugin wires a pod",
        source: "the tests of Calico's plugin",
        known: &[(1, 29)],
    },
    Family {
        prefix: "IPAM",
        subject: "blocks, affinities and handles",
        source: "the tests of Calico's address management",
        known: &[(1, 27)],
    },
    Family {
        prefix: "CAL",
        subject: "Calico's policy model and agent",
        source: "Calico's tests and documentation",
        known: &[(1, 39)],
    },
    Family { prefix: "SEL", subject: "Calico's selectors", source: "the tests of Calico's parser", known: &[(1, 9)] },
    Family { prefix: "HEP", subject: "host endpoints", source: "Calico's tests", known: &[(1, 15)] },
    Family {
        prefix: "E2H",
        subject: "what pods send to their own node",
        source: "Calico's tests of defaultEndpointToHostAction",
        known: &[(1, 7)],
    },
    Family { prefix: "SPF", subject: "forged sources", source: "Calico's tests", known: &[(1, 5)] },
    Family {
        prefix: "PKT",
        subject: "neighbours, fragments, ICMP, headers, flows",
        source: "RFCs, and what the kernel does",
        known: &[(1, 10), (20, 26), (30, 47), (50, 62), (70, 81)],
    },
    Family { prefix: "OWN", subject: "what nobody's suite checks", source: "this project", known: &[(1, 20)] },
];

/// One behaviour: the family's place in [`FAMILIES`], and the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub family: usize,
    pub number: u32,
}

impl Id {
    /// Whether such a behaviour exists.
    pub fn is_known(self) -> bool {
        FAMILIES[self.family].known.iter().any(|(first, last)| (*first..=*last).contains(&self.number))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let prefix = FAMILIES[self.family].prefix;
        let dash = if prefix.contains('-') { "" } else { "-" };
        write!(f, "{prefix}{dash}{}", self.number)
    }
}

/// The ids in a test's name: `np_9_..`, `np_1_and_np_2_..`, `pkt_43_44_..`, `cni_40_to_44_..`, `cni_e11_..`.
pub fn in_name(name: &str) -> Vec<Id> {
    let words: Vec<&str> = name.split('_').collect();
    let mut ids = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let linked = at == 0 || words[at - 1] == "and";
        match id(&words[at..]).filter(|_| linked) {
            Some(first) => at = chain(&words, at + 2, first, &mut ids),
            None => at += 1,
        }
    }
    ids
}

/// Takes `first` and all that hangs on it; says where that ends.
fn chain(words: &[&str], mut at: usize, first: Id, ids: &mut Vec<Id>) -> usize {
    ids.push(first);
    let mut last = first;
    loop {
        let link = words.get(at).copied().filter(|word| ["to", "and"].contains(word));
        let behind = &words[(at + usize::from(link.is_some())).min(words.len())..];
        let short = || Some((Id { number: behind.first()?.parse().ok()?, ..last }, 1));
        let greater = |found: &(Id, usize)| found.0.number > last.number;
        let full = id(behind).map(|id| (id, 2));
        // With a letter, of the same suite: `cni_71_e50_..`.
        let lettered = || {
            let suite = FAMILIES[last.family].prefix.split('-').next()?;
            Some((lettered(suite, behind.first()?)?, 1))
        };
        let Some((next, taken)) = full.or_else(lettered).or_else(|| short().filter(greater)) else { return at };
        match link {
            Some("to") => ids.extend((last.number + 1..=next.number).map(|number| Id { number, ..last })),
            _ => ids.push(next),
        }
        last = next;
        at += usize::from(link.is_some()) + taken;
    }
}

/// The id that two words make.
fn id(words: &[&str]) -> Option<Id> {
    let [prefix, number, ..] = words else { return None };
    let prefix = prefix.to_uppercase();
    lettered(&prefix, number).or_else(|| number_of(&prefix, number))
}

/// A number with a letter before it, which is a family of its own.
fn lettered(suite: &str, word: &str) -> Option<Id> {
    let letter = word.chars().next().filter(char::is_ascii_alphabetic)?;
    number_of(&format!("{suite}-{}", letter.to_ascii_uppercase()), &word[1..])
}

fn number_of(prefix: &str, number: &str) -> Option<Id> {
    let family = FAMILIES.iter().position(|family| family.prefix == prefix)?;
    Some(Id { family, number: number.parse().ok()? })
}

/// The id that a row's name begins with: `PKT-37 a pong passes`.
pub fn of_row(name: &str) -> Option<Id> {
    let (prefix, number) = name.split(' ').next()?.rsplit_once('-')?;
    lettered(prefix, number).or_else(|| number_of(prefix, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str) -> Vec<String> {
        in_name(name).iter().map(Id::to_string).collect()
    }

    #[test]
    fn a_name_begins_with_its_ids() {
        assert_eq!(names("np_9_two_peers_are_or"), ["NP-9"]);
        assert_eq!(names("np_46_cyc_8_a_range_holds_both_its_ends"), ["NP-46", "CYC-8"]);
        assert_eq!(names("np_3_and_np_28_a_policy_holds"), ["NP-3", "NP-28"]);
        assert_eq!(names("calc_13_and_16_a_new_sandbox"), ["CALC-13", "CALC-16"]);
        assert_eq!(names("pkt_22_41_42_torn_headers"), ["PKT-22", "PKT-41", "PKT-42"]);
        assert_eq!(names("cni_e11_an_agent_that_is_away"), ["CNI-E11"]);
        assert_eq!(names("cni_71_72_e50_the_addresses_are_exhausted"), ["CNI-71", "CNI-72", "CNI-E50"]);
        assert_eq!(names("cni_e11_e50_and_cni_70_an_agent"), ["CNI-E11", "CNI-E50", "CNI-70"]);
        assert_eq!(names("np_9_e50_is_no_code_of_that_suite"), ["NP-9"]);
        assert_eq!(names("np_h2_a_pod_to_itself_is_left_out"), ["NP-H2"]);
        assert_eq!(names("np_h1_h2_np_3_a_table"), ["NP-H1", "NP-H2", "NP-3"]);
        assert_eq!(names("e2h_1_e2h_7_a_family_may_have_a_digit_in_its_name"), ["E2H-1", "E2H-7"]);
        assert_eq!(names("np_hand_written"), Vec::<String>::new());
    }

    #[test]
    fn a_range_is_all_between_its_ends() {
        assert_eq!(names("pkt_20_to_pkt_22_later_fragments"), ["PKT-20", "PKT-21", "PKT-22"]);
        assert_eq!(names("cni_81_to_83_results_have_a_shape"), ["CNI-81", "CNI-82", "CNI-83"]);
    }

    #[test]
    fn an_id_behind_and_counts_anywhere() {
        assert_eq!(names("calc_13_a_new_one_replaces_it_and_calc_16_the_old_leaves"), ["CALC-13", "CALC-16"]);
    }

    #[test]
    fn numbers_and_words_of_the_sentence_are_no_ids() {
        assert_eq!(names("cni_82_in_1_0_0_no_ip_says_its_version"), ["CNI-82"]);
        assert_eq!(names("cni_83_1_1_0_adds_the_mtu"), ["CNI-83"]);
        assert_eq!(names("a_pod_keeps_its_own_2_addresses"), Vec::<String>::new());
        assert_eq!(names("np_22_to_whom_it_concerns"), ["NP-22"]);
    }

    #[test]
    fn a_row_begins_with_its_id() {
        assert_eq!(of_row("PKT-37 a pong passes").map(|id| id.to_string()).as_deref(), Some("PKT-37"));
        assert_eq!(of_row("CNI-E11 again").map(|id| id.to_string()).as_deref(), Some("CNI-E11"));
        assert!(of_row("sub-4 is none").is_none() && of_row("a PKT-37").is_none());
    }

    #[test]
    fn a_number_that_does_not_exist_is_known_as_such() {
        assert!(in_name("np_46_a")[0].is_known());
        assert!(!in_name("np_47_a")[0].is_known());
    }
}
