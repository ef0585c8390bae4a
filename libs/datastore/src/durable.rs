//! Files that are whole at every moment, several at a time: what waits for the disk waits together.
//! In: files. Out: all of them in place, or the first that is not.
//! Invariant: each is written beside and renamed, in the order given, so a crash leaves a beginning. One that lasts is on the
//! disk before: after a crash of the machine it is the former or the new one. Another may be empty then.
//! Never: locks; makes a directory; waits for a directory.

use crate::parallel;
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

/// Waits at a time: a disk takes several as easily as one.
const TOGETHER: usize = 16;

/// A file to be put in place.
#[derive(Clone, Debug)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// What it says.
    pub text: Vec<u8>,
    /// It outlives a crash of the machine, not only one of the process.
    pub lasts: bool,
}

/// Puts every file in place.
///
/// # Errors
/// The file that could not be written, and why. Those before it in the list may be in place.
pub fn replace_all(files: &[File]) -> Result<(), (PathBuf, io::Error)> {
    let put = |file: &File| beside(file).map_err(|error| (file.path.clone(), error));
    let (lasting, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.lasts);
    others.into_iter().try_for_each(put)?;
    let begun = Instant::now();
    parallel::awaited(&lasting, TOGETHER, |file| put(file)).into_iter().collect::<Result<(), _>>()?;
    tracing::debug!(target: "laps", "disk {}", begun.elapsed().as_micros());
    for File { path, .. } in files {
        fs::rename(temporary(path), path).map_err(|error| (path.clone(), error))?;
    }
    Ok(())
}

/// Hidden, so that no reader takes it for an object.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

fn beside(file: &File) -> io::Result<()> {
    let mut made = fs::File::create(temporary(&file.path))?;
    made.write_all(&file.text)?;
    if file.lasts { made.sync_data() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, names: impl Iterator<Item = String>) -> Vec<File> {
        let file =
            |name: String| File { path: dir.join(&name), lasts: name.len().is_multiple_of(2), text: name.into_bytes() };
        names.map(file).collect()
    }

    #[test]
    fn all_files_are_in_place_and_nothing_is_left_beside_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = files(dir.path(), (0..50).map(|number| format!("{number}.yaml")));
        for _ in 0..2 {
            replace_all(&files).expect("written");
            assert!(files.iter().all(|file| fs::read(&file.path).is_ok_and(|found| found == file.text)));
            assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 50);
        }
    }

    #[test]
    fn what_cannot_be_written_is_named_and_nothing_is_renamed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = files(dir.path(), ["a.yaml", "nowhere/b.yaml", "c.yaml"].map(str::to_owned).into_iter());
        let (path, _) = replace_all(&files).expect_err("there is no such directory");
        assert_eq!(path, files[1].path);
        assert!(!files[0].path.exists() && !files[2].path.exists());
    }
}
