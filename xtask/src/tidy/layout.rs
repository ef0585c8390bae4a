//! How a source file looks: its header, its size, its name.
//! In: one file. Out: what is wrong with its form.
//! Invariant: the caps are those of the house; a file near one is split by subject, not squeezed.
//! Never: looks at what the code does.

use super::{Source, Violation};

/// Lines a file of the agent, the libraries or the chores may have, its tests not counted.
const USER_LINES: usize = 800;
/// Lines a file of the kernel programs may have, its tests not counted.
const EBPF_LINES: usize = 350;
/// Lines a file of tests may have.
const TEST_LINES: usize = 1500;
/// Module names that attract everything.
const BANNED: [&str; 6] = ["utils", "helpers", "common", "misc", "types", "manager"];

/// Checks header, size and name of a Rust file.
pub fn check(source: &Source) -> Vec<Violation> {
    if !source.is_rust() {
        return Vec::new();
    }
    [header(source), size(source), name(source)].into_iter().flatten().collect()
}

fn header(source: &Source) -> Option<Violation> {
    let mut lines = source.text.lines().take_while(|line| line.starts_with("//!"));
    let says_what = lines.next().is_some_and(|first| first.starts_with("//! ") && !first.starts_with("//! In:"));
    if !says_what {
        return Some(source.violation(1, "no header: the first line says in one sentence what the file is for"));
    }
    let says_in = lines.any(|line| line.starts_with("//! In:"));
    (!says_in)
        .then(|| source.violation(2, "no `//! In: .. Out: ..` line in the header: say what goes in and comes out"))
}

fn size(source: &Source) -> Option<Violation> {
    let (lines, cap) = if is_test(&source.path) {
        (source.text.lines().count(), TEST_LINES)
    } else {
        let cap = if source.path.starts_with("ebpf/") { EBPF_LINES } else { USER_LINES };
        (source.lines_without_tests().count(), cap)
    };
    (lines > cap).then(|| source.violation(cap + 1, format!("{lines} lines, more than {cap}: split by subject")))
}

/// Files whose every line is a test or serves one.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/")
        || path.contains("/tests/")
        || ["/tests.rs", "/prop.rs"].iter().any(|name| path.ends_with(name))
}

fn name(source: &Source) -> Option<Violation> {
    let stem = source.path.strip_suffix(".rs").unwrap_or(&source.path);
    let banned = stem.split('/').find(|part| BANNED.contains(part))?;
    Some(source.violation(1, format!("a module called `{banned}`: name it after the one thing it holds")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "//! What this is.\n//! In: a. Out: b.\n";

    fn reasons(path: &str, text: &str) -> Vec<String> {
        check(&Source::new(path, text)).into_iter().map(|violation| violation.reason).collect()
    }

    #[test]
    fn a_file_with_a_header_is_fine() {
        assert_eq!(reasons("libs/calc/src/world.rs", HEADER), Vec::<String>::new());
    }

    #[test]
    fn a_title_may_take_two_lines() {
        assert_eq!(reasons("a.rs", "//! What this is, and\n//! more.\n//! In: a. Out: b.\n"), Vec::<String>::new());
    }

    #[test]
    fn a_file_without_header_is_refused() {
        assert!(reasons("a.rs", "use std::fmt;\n")[0].contains("no header"));
        assert!(reasons("a.rs", "//! In: a. Out: b.\n")[0].contains("no header"));
    }

    #[test]
    fn a_header_without_in_and_out_is_refused() {
        assert!(reasons("a.rs", "//! What this is.\n\n//! In: too late.\n")[0].contains("`//! In:"));
    }

    #[test]
    fn a_kernel_program_file_is_capped_earlier_than_others() {
        let text = format!("{HEADER}{}", "fn f() {}\n".repeat(349));
        assert!(reasons("ebpf/src/walk.rs", &text)[0].contains("351 lines, more than 350"));
        assert_eq!(reasons("agent/src/run.rs", &text), Vec::<String>::new());
    }

    #[test]
    fn tests_at_the_end_do_not_count_towards_the_cap() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(900));
        assert_eq!(reasons("agent/src/run.rs", &format!("{HEADER}{tests}")), Vec::<String>::new());
        let code = format!("{HEADER}{}", "fn f() {}\n".repeat(799));
        assert!(reasons("agent/src/run.rs", &format!("{code}{tests}"))[0].contains("801 lines"));
    }

    #[test]
    fn a_drawer_for_everything_is_refused() {
        for path in ["libs/model/src/utils.rs", "agent/src/helpers/x.rs", "libs/common/src/lib.rs"] {
            assert!(reasons(path, HEADER)[0].contains("a module called"), "{path}");
        }
        assert_eq!(reasons("agent/src/pod_types.rs", HEADER), Vec::<String>::new());
    }
}
