//! Text of a configuration: what may stand in it.
//! In: names and strings of objects. Out: symbols and strings of BIRD's language.
//! Invariant: a symbol has at most 64 letters, and two names never share one.
//! Never: a string that ends before its end.

use std::fmt::Write as _;

/// The longest symbol that BIRD takes.
const SYMBOL_MAX: usize = 64;

/// A string, if it can be one: BIRD knows no way to write a quote in it.
pub(crate) fn string(text: &str) -> Option<String> {
    let is_plain = |letter: char| letter != '"' && !letter.is_control();
    text.chars().all(is_plain).then(|| format!("\"{text}\""))
}

/// A symbol of these parts; a long name is cut, and told apart by its sum.
pub(crate) fn symbol(before: &str, name: &str, after: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.:".contains(c) { c } else { '_' }).collect();
    let room = SYMBOL_MAX - before.len() - after.len();
    if plain.len() <= room && plain == name {
        return format!("'{before}{plain}{after}'");
    }
    let cut: String = plain.chars().take(room.saturating_sub(17)).collect();
    format!("'{before}{cut}_{:016x}{after}'", sum(name))
}

/// FNV-1a: the same on every machine.
pub(crate) fn sum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Lines that are moved in as their braces say.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    text: String,
    depth: usize,
}

impl Lines {
    pub(crate) fn say(&mut self, line: impl AsRef<str>) {
        let line = line.as_ref();
        if line.starts_with('}') {
            self.depth = self.depth.saturating_sub(1);
        }
        let _ = writeln!(self.text, "{:width$}{line}", "", width = self.depth * 2);
        if line.ends_with('{') {
            self.depth += 1;
        }
    }

    pub(crate) fn all<T: AsRef<str>>(&mut self, lines: impl IntoIterator<Item = T>) {
        lines.into_iter().for_each(|line| self.say(line));
    }

    pub(crate) fn end(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_to_a_symbol_of_its_own_and_a_string_cannot_be_left() {
        let (long, other) = ("a".repeat(200), format!("{}b", "a".repeat(199)));
        let [one, two] = [&long, &other].map(|name| symbol("f_", name, "_import_v4"));
        assert!(one.len() <= SYMBOL_MAX + 2 && one != two, "{one} {two}");
        assert_eq!(symbol("f_", "a.b-c", "_x"), "'f_a.b-c_x'");
        assert!(!symbol("f_", "a';", "").contains("a';"));
        assert_eq!(["a b", "a\"; bad", "a\nb"].map(string), [Some("\"a b\"".into()), None, None]);
    }
}
