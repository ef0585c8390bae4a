//! What a machine boots into: busybox, the tests with their libraries, the kernel's modules, and a script that runs them.
//! In: a kernel and what is to be inside. Out: an archive; and what the script's last line said.
//! Invariant: the script says how the tests ended, then powers off, whatever happened.
//! Never: needs a disk or a network.

use super::{cpio::Archive, guest::Guest, kernel::Kernel};
use crate::paths::Paths;
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Begins the line that says how the tests ended.
const MARK: &str = "tortie-vm: exit ";

/// An archive in the making.
#[derive(Default)]
pub struct Initrd {
    archive: Archive,
    folders: BTreeSet<PathBuf>,
}

/// Where a kernel's archive is made.
pub fn path(paths: &Paths, kernel: &Kernel) -> PathBuf {
    paths.target.join(format!("bpf/initrd-{}.{}", kernel.release, std::process::id()))
}

/// Whether the script said that all went well.
pub fn passed(lines: &[String]) -> bool {
    lines.iter().any(|line| line.trim_end() == format!("{MARK}0"))
}

impl Initrd {
    /// The whole archive.
    pub fn of(mut self, paths: &Paths, kernel: &Kernel, guest: &Guest) -> Result<Vec<u8>> {
        for folder in ["proc", "sys", "dev", "tmp", "run", "mnt", "etc", "bin", "root"] {
            self.folder(Path::new("/").join(folder));
        }
        self.copy(&found(paths, "busybox")?, Path::new("/bin/busybox"))?;
        for tool in guest.tools {
            self.program(paths, &found(paths, tool)?, &format!("/bin/{tool}"))?;
        }
        for (name, program) in &guest.programs {
            self.program(paths, program, &format!("/bin/{name}"))?;
        }
        for (from, to) in &guest.files {
            self.copy(from, to)?;
        }
        let mut loads = String::new();
        for module in modules(kernel, guest.modules)? {
            let place = format!("/modules/{}.ko", module.name);
            self.write(Path::new(&place), &module.bytes);
            loads += &format!("insmod {place}\n");
        }
        self.write(Path::new("/init"), script(&loads, &guest.run).as_bytes());
        Ok(self.archive.finish())
    }

    /// A program with the libraries that it is linked with.
    fn program(&mut self, paths: &Paths, from: &Path, to: &str) -> Result<()> {
        self.copy(from, Path::new(to))?;
        let output = paths.command("ldd").arg(from).output().context("ldd cannot be run")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // `name => /path (address)`, `/path (address)`; what the kernel itself provides has no path.
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            self.copy(Path::new(library), Path::new(library))?;
        }
        Ok(())
    }

    fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("{}: cannot be read", from.display()))?;
        self.write(to, &content);
        Ok(())
    }

    fn write(&mut self, to: &Path, content: &[u8]) {
        if let Some(parent) = to.parent() {
            self.folder(parent.to_owned());
        }
        // The kernel takes the later of two entries for one path: the same library, then.
        self.archive.file(&to.to_string_lossy(), content);
    }

    fn folder(&mut self, path: PathBuf) {
        if path.parent().is_none() || !self.folders.insert(path.clone()) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.folder(parent.to_owned());
        }
        self.archive.folder(&path.to_string_lossy());
    }
}

fn script(loads: &str, run: &str) -> String {
    format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /root
export PATH=/bin:/root HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
stty -F /dev/console -opost
ip link set lo up
{loads}
export CARGO_TARGET_DIR=/target RUST_BACKTRACE=1
{run}
echo \"{MARK}$?\"
poweroff -f
"
    )
}

struct Module {
    name: String,
    bytes: Vec<u8>,
}

/// Modules with what they depend on before them. What the kernel has built in needs no file.
fn modules(kernel: &Kernel, names: &[&str]) -> Result<Vec<Module>> {
    let files = files(&kernel.modules)?;
    let builtin = kernel.modules.with_file_name("modules.builtin");
    let builtin = fs::read_to_string(&builtin).with_context(|| format!("{}: cannot be read", builtin.display()))?;
    let mut found = Vec::new();
    for name in names {
        add(&files, &builtin, name, &mut found)?;
    }
    Ok(found)
}

fn add(files: &BTreeMap<String, PathBuf>, builtin: &str, name: &str, found: &mut Vec<Module>) -> Result<()> {
    if found.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let Some(file) = files.get(name) else {
        ensure!(builtin.contains(&format!("/{name}.ko")), "this kernel has no module {name}");
        return Ok(());
    };
    let bytes = module(file)?;
    for needed in dependencies(&bytes) {
        add(files, builtin, &needed, found)?;
    }
    found.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// Every module's file by its name.
fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}: cannot be listed", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else if let Some((stem, _)) = name.split_once(".ko") {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(files)
}

/// A module's bytes, unpacked: not every kernel unpacks them itself.
fn module(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|kind| kind == "ko") {
        return fs::read(file).with_context(|| format!("{}: cannot be read", file.display()));
    }
    let output = std::process::Command::new("xz").arg("-dc").arg(file).output().context("xz cannot be run")?;
    ensure!(output.status.success(), "{}: cannot be unpacked by xz", file.display());
    Ok(output.stdout)
}

/// What a module says it needs: `depends=a,b` among the strings that describe it.
fn dependencies(module: &[u8]) -> Vec<String> {
    let says = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(says.unwrap_or_default()).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn found(paths: &Paths, program: &str) -> Result<PathBuf> {
    let known = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let place = paths.search_dirs().chain(known).map(|dir| dir.join(program)).find(|path| path.is_file());
    match place {
        Some(place) => Ok(place),
        None => bail!("{program} is not there: run `cargo xtask setup`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_scripts_own_line_says_that_all_went_well() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(passed(&lines("test a ... ok\ntortie-vm: exit 0\r")));
        assert!(!passed(&lines("tortie-vm: exit 101")));
        assert!(!passed(&lines("test result: ok. 3 passed")));
    }

    #[test]
    fn a_modules_needs_are_read_from_its_description() {
        assert_eq!(dependencies(b"\x7fELF\0license=GPL\0depends=a-b,c\0name=x\0"), ["a_b", "c"]);
        assert!(dependencies(b"depends=\0").is_empty());
    }

    #[test]
    fn a_folder_is_made_once_and_after_its_parents() {
        let mut initrd = Initrd::default();
        initrd.write(Path::new("/a/b/c"), b"x");
        initrd.write(Path::new("/a/b/d"), b"y");
        assert_eq!(initrd.folders, BTreeSet::from(["/a".into(), "/a/b".into()]));
    }
}
