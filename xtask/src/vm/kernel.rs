//! Debian's cloud kernels: found by their series, fetched once, unpacked beside the target folder.
//! In: a series such as 6.1. Out: image and modules of its newest package.
//! Invariant: a second run downloads nothing; what is unpacked is whole, because it is renamed into place.
//! Never: installs a package; takes another series for the one asked for.

use crate::{paths::Paths, step::Console};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A kernel that can be booted.
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// Its image.
    pub image: PathBuf,
    /// Its modules, below `kernel/`.
    pub modules: PathBuf,
}

/// The newest kernel of a series, from the cache or from Debian's archive.
pub fn find(paths: &Paths, console: &Console, series: &str) -> Result<Kernel> {
    let name = format!("kernel {series}");
    let cache = paths.cache.join("vm");
    fs::create_dir_all(&cache).with_context(|| format!("{}: cannot be made", cache.display()))?;
    if let Some(release) = newest(releases_in(&cache)?, series) {
        console.nothing_to_do(&format!("{name}: {release}, from {}", cache.display()));
        return Ok(unpacked(&cache, release));
    }
    // Lists that are not there or old name no kernel, or one that the archive no longer has.
    let release = match newest(offered(paths)?, series) {
        Some(release) if fetch(paths, console, &cache, &release).is_ok() => release,
        _ => fetch_with_fresh_lists(paths, console, &cache, series)?,
    };
    Ok(unpacked(&cache, release))
}

fn fetch_with_fresh_lists(paths: &Paths, console: &Console, cache: &Path, series: &str) -> Result<String> {
    console.run("Debian packages: lists", paths.command("apt-get").arg("update"))?;
    let release = newest(offered(paths)?, series).with_context(|| {
        format!(
            "apt knows no package {PACKAGE}{series}.*{FLAVOUR}: Debian 12 has 6.1, and 6.12 in its security suite; \
             on another release name a series that it has"
        )
    })?;
    fetch(paths, console, cache, &release)?;
    Ok(release)
}

fn unpacked(cache: &Path, release: String) -> Kernel {
    let folder = cache.join(&release);
    let image = folder.join(format!("boot/vmlinuz-{release}"));
    let modules = folder.join(format!("lib/modules/{release}/kernel"));
    Kernel { release, image, modules }
}

fn releases_in(cache: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(cache).with_context(|| format!("{}: cannot be listed", cache.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.ends_with(FLAVOUR)).collect())
}

/// What apt could fetch.
fn offered(paths: &Paths) -> Result<Vec<String>> {
    let mut search = paths.command("apt-cache");
    search.args(["search", "--names-only", "^linux-image-[0-9].*-cloud-amd64$"]);
    let output = search.output().context("apt-cache cannot be run: the kernels are Debian's packages")?;
    ensure!(output.status.success(), "apt-cache search: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split(' ').next()?.strip_prefix(PACKAGE));
    Ok(names.map(str::to_owned).collect())
}

const PACKAGE: &str = "linux-image-";
const FLAVOUR: &str = "-cloud-amd64";

/// The newest release of a series. A release says more than its series: the packages that only depend on one do not.
fn newest(releases: Vec<String>, series: &str) -> Option<String> {
    let prefix = format!("{series}.");
    let of_series = |release: &String| release.starts_with(&prefix) && release.ends_with(FLAVOUR);
    releases.into_iter().filter(of_series).max_by_key(|release| numbers(release))
}

/// The numbers in a release's name, so that 6.1.0-9 comes before 6.1.0-10.
fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn fetch(paths: &Paths, console: &Console, cache: &Path, release: &str) -> Result<()> {
    let fresh = cache.join(format!("{release}.new.{}", std::process::id()));
    fs::create_dir_all(&fresh).with_context(|| format!("{}: cannot be made", fresh.display()))?;
    let package = format!("{PACKAGE}{release}");
    let mut download = paths.command("apt-get");
    // As root apt fetches through a user that may not write here, and says so at length.
    download.current_dir(&fresh).args(["-o", "APT::Sandbox::User=root", "download", &package]);
    console.run(&format!("{package}: download"), &mut download)?;
    let archive = fs::read_dir(&fresh)?.filter_map(Result::ok).map(|entry| entry.path()).next();
    let Some(archive) = archive else { bail!("apt-get download {package} left no file") };
    let mut unpack = paths.command("dpkg-deb");
    console.run(&format!("{package}: unpack"), unpack.arg("-x").arg(&archive).arg(&fresh))?;
    fs::remove_file(&archive)?;
    let place = cache.join(release);
    match fs::rename(&fresh, &place) {
        // Another run was faster.
        Err(_) if place.exists() => fs::remove_dir_all(&fresh).context("removing a second download"),
        moved => moved.with_context(|| format!("{}: cannot be moved into place", place.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::newest;

    fn of(series: &str) -> Option<String> {
        let names = ["6.1.0-9", "6.1.0-56", "6.12.100+deb12", "6.12.117+deb12", "6.12", "6.1.0-60-rt"];
        newest(names.map(|name| format!("{name}-cloud-amd64")).into(), series)
    }

    #[test]
    fn the_newest_of_a_series_is_taken_and_of_no_other() {
        assert_eq!(of("6.12").as_deref(), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(of("6.1").as_deref(), Some("6.1.0-60-rt-cloud-amd64"));
        assert_eq!(of("6.6"), None);
    }
}
