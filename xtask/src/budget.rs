//! What typical packets cost the stages, counted, against the ceilings in `ebpf/budget.toml`.
//! In: the example `paths` of crate `ebpf`, run as it is and under valgrind; to write, the packet level's `paths` as well.
//! Out: a table; whether all is within budget.
//! Invariant: counts, never times, are compared: two runs of one tree say the same. A path or a count without a ceiling
//! fails. Nanoseconds are only written down, for people.
//! Never: counts what the tables in memory do: their instructions are not the kernel's.

use crate::{
    ceilings::{self, Counts, against},
    ebpf,
    paths::Paths,
    step::Console,
};
use anyhow::{Context as _, Result, ensure};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Walks between two counts: what both runs do besides cancels out.
const WALKS: [u64; 2] = [100, 1100];

/// Compares, or writes the counts down as the new ceilings. `false`: something is above.
pub fn budget(paths: &Paths, console: &Console, write: bool) -> Result<bool> {
    let build = ["build", "--package", "ebpf", "--example", "paths", "--features", "fake", "--release"];
    let mut command = paths.cargo(&build);
    // A profiler tells functions by their names.
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "1").env("CARGO_PROFILE_RELEASE_STRIP", "false");
    console.run("build the paths", &mut command)?;
    let program = paths.target.join("release/examples/paths");
    let mut counted = said(&console.run("walk the paths", &mut paths.command(text_of(&program)?))?);
    for (path, counts) in &mut counted {
        let [few, many] =
            [profile(paths, console, &program, path, WALKS[0])?, profile(paths, console, &program, path, WALKS[1])?];
        counts.insert("instructions".to_owned(), (many - few) / (WALKS[1] - WALKS[0]));
    }
    let file = paths.root.join("ebpf/budget.toml");
    let mut text = fs::read_to_string(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
    if write {
        let mut counted = counted.clone();
        let times = nanoseconds(paths, console)?;
        ensure!(times.keys().eq(counted.keys()), "the packet level's paths are others than those counted: {times:?}");
        for (path, counts) in times {
            counted.entry(path).or_default().extend(counts);
        }
        text = counted
            .iter()
            .fold(text, |text, (path, counts)| ceilings::with_section(&text, &header(path), &with_room(counts)));
        fs::write(&file, &text).with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    Ok(compare(&counted, &text, !console.is_quiet()))
}

/// How long the live programs take for one packet of each path, by the packet level's test of the same name.
fn nanoseconds(paths: &Paths, console: &Console) -> Result<BTreeMap<String, Counts>> {
    ebpf::build(paths, console, false)?;
    let test = ["test", "--package", "tests", "--test", "packet", "--", "--nocapture", "paths::"];
    let lines = console.run("time the paths", &mut paths.cargo(&test))?;
    let of_path = |line: &String| {
        let (path, time) = line.strip_prefix("nanoseconds ")?.split_once(' ')?;
        Some(format!("{path} nanoseconds {time}"))
    };
    let times = said(&lines.iter().filter_map(of_path).collect::<Vec<_>>());
    Ok(times)
}

/// Prints every count beside its ceiling, or only what is not within it.
fn compare(counted: &BTreeMap<String, Counts>, text: &str, all: bool) -> bool {
    let mut held = true;
    for (path, counts) in counted {
        let ceilings = ceilings::section(text, &header(path));
        for (what, count) in counts {
            let stands = against(*count, ceilings.get(what));
            held &= stands.is_ok();
            if all || stands.is_err() {
                let (Ok(word) | Err(word)) = stands;
                println!("        {path}: {count} {what}, {word}");
            }
        }
    }
    if !held {
        println!("        ceilings stand in ebpf/budget.toml; `cargo xtask budget --write` sets them anew");
    }
    held
}

/// Lines `PATH WHAT COUNT WHAT COUNT...`.
fn said(lines: &[String]) -> BTreeMap<String, Counts> {
    let path = |line: &String| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let words: Vec<_> = words.collect();
        let counts =
            words.as_chunks::<2>().0.iter().map(|[what, count]| Some(((*what).to_owned(), count.parse().ok()?)));
        Some((name, counts.collect::<Option<_>>()?))
    };
    lines.iter().filter_map(path).collect()
}

/// Instructions of the stages over so many walks of a path.
fn profile(paths: &Paths, console: &Console, program: &Path, path: &str, walks: u64) -> Result<u64> {
    let out: PathBuf = paths.target.join(format!("paths-{path}-{walks}.callgrind"));
    let mut command = paths.command("valgrind");
    command.args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(program).arg(path).arg(walks.to_string());
    console.attempt(&format!("count {path}, {walks} times"), &mut command)?;
    let text = fs::read_to_string(&out).with_context(|| format!("{}: valgrind wrote nothing", out.display()))?;
    fs::remove_file(&out).with_context(|| format!("{}: cannot be removed", out.display()))?;
    let count = of_stages(&text);
    ensure!(count > 0, "{path}: valgrind saw no stage: are the names of functions stripped?");
    Ok(count)
}

/// The sum of what a profile says of the stages' own instructions. A call's line is followed by what it took all
/// together, which its own function is counted for.
fn of_stages(profile: &str) -> u64 {
    let (mut ours, mut is_call, mut sum) = (false, false, 0);
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            ours = is_stage(name);
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit()) {
            let count = line.split_whitespace().nth(1).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
            sum += if ours && !is_call { count } else { 0 };
            is_call = false;
        }
    }
    sum
}

/// `paths::stages`, and what of the crate it calls; not the tables in memory.
fn is_stage(name: &str) -> bool {
    let tables = ["fake::", "shelf::", "Counting", "paths::run", "paths::main", "paths::ways", "paths::node"];
    (name.contains("ebpf::") || name.contains("paths::stages")) && !tables.iter().any(|part| name.contains(part))
}

fn header(path: &str) -> String {
    format!("[paths.{path}]")
}

/// As counted, and a twentieth above for instructions, which the compiler has a say in.
fn with_room(counts: &Counts) -> Counts {
    let ceiling = |what: &str, count: u64| if what == "instructions" { count + count / 20 } else { count };
    counts.iter().map(|(what, count)| (what.clone(), ceiling(what, *count))).collect()
}

fn text_of(path: &Path) -> Result<&str> {
    path.to_str().context("the target folder's path is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
    }

    #[test]
    fn only_the_stages_own_instructions_are_summed() {
        let profile = "fn=paths::stages\n10 5\ncalls=1 20\n11 100\n12 7\nfn=ebpf::parse::parse\n20 30\n\
            fn=<ebpf::fake::Node as ebpf::tables::Tables>::flow\n30 70\nfn=malloc\n1 9\n";
        assert_eq!(of_stages(profile), 5 + 7 + 30);
    }

    #[test]
    fn a_count_above_its_ceiling_or_without_one_fails() {
        let counted = |count| BTreeMap::from([("a".to_owned(), counts(&[("lookups", count)]))]);
        let text = "[verified.\"6.1\"]\na = 1\n\n[paths.a]\nlookups = 2\n";
        assert!(compare(&counted(2), text, true));
        assert!(!compare(&counted(3), text, true));
        assert!(!compare(&counted(0), "[paths.b]\nlookups = 2\n", false));
    }

    #[test]
    fn a_twentieth_is_left_for_the_compiler_and_nothing_for_lookups() {
        let counted = counts(&[("instructions", 100), ("lookups", 1)]);
        assert_eq!(with_room(&counted), counts(&[("instructions", 105), ("lookups", 1)]));
    }
}
