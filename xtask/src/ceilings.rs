//! Ceilings: the sections of `ebpf/budget.toml`, each a list of counts by name.
//! In: the file's text, a section's header, what was counted. Out: its ceilings, the text with others, and what holds.
//! Invariant: a count without a ceiling fails, as one above it does.
//! Never: touches another section.

use std::collections::BTreeMap;

/// By what is counted.
pub type Counts = BTreeMap<String, u64>;

/// The ceilings under this header.
pub fn section(text: &str, header: &str) -> Counts {
    let lines = text.lines().skip_while(|line| line.trim() != header).skip(1);
    let ceiling = |line: &str| {
        let (what, count) = line.split_once('=')?;
        Some((what.trim().to_owned(), count.trim().parse().ok()?))
    };
    lines.take_while(|line| !line.starts_with('[')).filter_map(ceiling).collect()
}

/// The text with these ceilings under this header.
pub fn with_section(text: &str, header: &str, ceilings: &Counts) -> String {
    let rows = ceilings.iter().map(|(what, ceiling)| format!("{what} = {ceiling}\n"));
    let fresh = format!("{header}\n{}", rows.collect::<String>());
    let Some(start) = text.find(header) else {
        return if text.is_empty() { fresh } else { format!("{}\n\n{fresh}", text.trim_end()) };
    };
    let after = text[start + 1..].find("\n[").map(|at| start + 1 + at);
    let rest = after.map(|at| format!("\n{}", text[at..].trim_start_matches('\n'))).unwrap_or_default();
    format!("{}{fresh}{rest}", &text[..start])
}

/// How a count stands to its ceiling, in words; `Err`: above it, or there is none.
pub fn against(count: u64, ceiling: Option<&u64>) -> Result<String, String> {
    match ceiling {
        Some(ceiling) if count <= *ceiling => Ok(format!("of {ceiling}")),
        Some(ceiling) => Err(format!("ABOVE ITS CEILING {ceiling}")),
        None => Err("WITHOUT A CEILING".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# why\n[paths.a]\nx = 1\n\n[verified.\"6.1\"]\na = 1000\nb = 2000\n\n[verified.\"6.12\"]\na = 5\n";

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
    }

    #[test]
    fn a_section_is_read_by_its_own_header() {
        assert_eq!(section(TEXT, "[verified.\"6.1\"]"), counts(&[("a", 1000), ("b", 2000)]));
        assert_eq!(section(TEXT, "[verified.\"6.12\"]"), counts(&[("a", 5)]));
        assert_eq!(section(TEXT, "[verified.\"6.6\"]"), Counts::new());
    }

    #[test]
    fn only_the_named_section_is_written() {
        let text = with_section(TEXT, "[verified.\"6.1\"]", &counts(&[("a", 3000), ("c", 1000)]));
        assert_eq!(
            text,
            "# why\n[paths.a]\nx = 1\n\n[verified.\"6.1\"]\na = 3000\nc = 1000\n\n[verified.\"6.12\"]\na = 5\n"
        );
        let text = with_section(TEXT, "[verified.\"6.6\"]", &counts(&[("a", 1000)]));
        assert_eq!(text, format!("{TEXT}\n[verified.\"6.6\"]\na = 1000\n"));
        let text = with_section(TEXT, "[verified.\"6.12\"]", &counts(&[("a", 3000)]));
        assert_eq!(text, TEXT.replace("a = 5", "a = 3000"));
        let text = with_section(TEXT, "[paths.a]", &counts(&[("x", 2)]));
        assert_eq!(text, TEXT.replace("x = 1", "x = 2"));
    }

    #[test]
    fn a_count_above_its_ceiling_or_without_one_fails() {
        assert!(against(2, Some(&2)).is_ok());
        assert!(against(3, Some(&2)).is_err() && against(0, None).is_err());
    }
}
