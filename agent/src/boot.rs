//! This start of the machine, and whether it is another than the one in which an agent last ran on this state: its pods are gone then.
//! In: the kernel's number of this start, and the one in `STATE_DIR/boot`. Out: the number; the same start, or another.
//! Invariant: where nothing is written down, it is the same: nobody's pods are taken for gone.
//! Never: reads a clock.

use datastore::durable::{File, replace_all};
use std::{fs, io, path::Path};

/// Of this start, as random text.
const NUMBER: &str = "/proc/sys/kernel/random/boot_id";
const FILE: &str = "boot";

/// This start, by the number that a kubelet tells, too.
pub fn number() -> Option<String> {
    let number = fs::read_to_string(NUMBER).ok()?.trim().to_owned();
    (!number.is_empty()).then_some(number)
}

/// Whether the machine was started anew.
pub fn is_another(state_dir: &Path) -> bool {
    let known = fs::read_to_string(state_dir.join(FILE)).unwrap_or_default();
    number().is_some_and(|now| !known.trim().is_empty() && known.trim() != now)
}

/// Writes this start down, once, and so that a crash of the machine leaves it or the former one.
pub fn remember(state_dir: &Path) -> io::Result<()> {
    let (path, text) = (state_dir.join(FILE), fs::read(NUMBER)?);
    if fs::read(&path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    replace_all(&[File { path, text, lasts: true }]).map_err(|(_, error)| error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_start_is_one_that_was_written_down_otherwise() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(!is_another(dir.path()), "nothing is known");
        remember(dir.path()).expect("written");
        assert!(!is_another(dir.path()));
        fs::write(dir.path().join(FILE), "another\n").expect("written");
        assert!(is_another(dir.path()));
    }
}
