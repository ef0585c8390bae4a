//! An archive as container engines unpack it: tar, format "ustar" (POSIX.1-1988).
//! In: folders and files by their path. Out: the archive's bytes.
//! Invariant: pure; the same content gives the same bytes: nobody owns it, and it is of the epoch.
//! Never: reads a file.

const BLOCK: usize = 512;
const FILE: u8 = b'0';
const FOLDER: u8 = b'5';

/// An archive in the making.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// Adds a folder; its parents come first.
    pub fn folder(&mut self, path: &str) {
        self.entry(&format!("{path}/"), 0o755, FOLDER, &[]);
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, mode, FILE, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    /// # Panics
    /// The path has more than 100 bytes, which this format has no room for.
    fn entry(&mut self, path: &str, mode: u32, kind: u8, content: &[u8]) {
        assert!(path.len() <= 100, "{path}: too long for a tar archive");
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        // Owner, group.
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{:011o}", content.len()).as_bytes());
        // Time.
        put(136, b"00000000000");
        // The sum is of a header whose own field is blank.
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend(header);
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    #[test]
    fn tar_finds_in_it_what_was_put_there() {
        let mut archive = Archive::default();
        archive.folder("a");
        archive.file("a/b", 0o755, &[b'x'; 513]);
        archive.file("c", 0o644, b"");
        let mut tar = Command::new("tar");
        tar.args(["--list", "--verbose", "--utc", "--numeric-owner"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = tar.spawn().expect("tar is there");
        child.stdin.take().expect("piped").write_all(&archive.finish()).expect("tar reads");
        let output = child.wait_with_output().expect("tar ends");
        assert!(output.status.success());
        let said = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<String> =
            said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 a/",
                "-rwxr-xr-x 0/0 513 1970-01-01 00:00 a/b",
                "-rw-r--r-- 0/0 0 1970-01-01 00:00 c",
            ]
        );
    }
}
