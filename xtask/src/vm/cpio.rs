//! An archive as the kernel unpacks it into its first root: cpio, format "newc".
//! In: folders and files by their path. Out: the archive's bytes.
//! Invariant: pure; the same content gives the same bytes.
//! Never: reads a file.
//! (Linux: Documentation/driver-api/early-userspace/buffer-format.rst)

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// An archive in the making.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder; its parents come first.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, &[]);
    }

    /// Adds a file that can be executed.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, FILE, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let path = path.trim_start_matches('/');
        // inode, mode, uid, gid, links, time, size, four numbers of devices, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_contents_begin_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.folder("/a");
        archive.file("/a/bc", b"12345");
        let bytes = archive.finish();
        let at = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what).expect("it is there");
        assert_eq!(at(b"12345") % 4, 0);
        assert_eq!(bytes.windows(6).enumerate().filter(|(_, window)| *window == b"070701").count(), 3);
        assert!(bytes.windows(6).enumerate().filter(|(_, window)| *window == b"070701").all(|(at, _)| at % 4 == 0));
        // Size of the file's content, in hexadecimal digits, the seventh field of its header.
        let header = at(b"a/bc\0") - 110;
        assert_eq!(&bytes[header + 6 + 6 * 8..header + 6 + 7 * 8], b"00000005");
    }
}
