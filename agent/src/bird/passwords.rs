//! Passwords of BGP sessions: files of a folder where the settings name one, else Secrets of the datastore.
//! In: which are asked. Out: each, or why there is none.
//! Invariant: what the datastore cannot say yet is no absence: nothing is found then, and what was known before counts.
//! Never: a password in a message.

use datastore::{Lack, Shared};
use model::{Password, SecretKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// Longer ones are no passwords.
const PASSWORD_MAX: u64 = 1024;

/// Each that was asked.
pub type Found = BTreeMap<SecretKey, Result<Password, String>>;

/// `Err`: not all is known yet, for this reason perhaps.
pub fn find(folder: Option<&Path>, objects: &dyn Shared, asked: &BTreeSet<SecretKey>) -> Result<Found, Option<String>> {
    if let Some(folder) = folder {
        return Ok(asked.iter().map(|secret| (secret.clone(), in_folder(folder, secret))).collect());
    }
    let Some(found) = objects.passwords(asked) else {
        let why = "cannot be had: the setting bgpPasswords names no folder";
        return Ok(asked.iter().map(|secret| (secret.clone(), Err(why.to_owned()))).collect());
    };
    let known = found.into_iter().map(|(secret, found)| match found {
        Ok(password) => Ok((secret, Ok(password))),
        Err(Lack::Is(why)) => Ok((secret, Err(why))),
        Err(Lack::Unknown(why)) => {
            Err(why.map(|why| format!("Secret {} is not known yet, and all stays as it was: {why}", secret.name)))
        }
    });
    known.collect()
}

fn in_folder(folder: &Path, secret: &SecretKey) -> Result<Password, String> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(folder.join(&secret.name).join(&secret.key))?.take(PASSWORD_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let found = read().ok().and_then(|text| Password::of(&text));
    found.ok_or_else(|| "is not in the folder of the setting bgpPasswords, as NAME/KEY".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use datastore::Objects;
    use std::fs;

    fn secret(key: &str) -> SecretKey {
        SecretKey { name: "bgp".into(), key: key.into() }
    }

    #[test]
    fn passwords_are_read_by_the_names_of_secret_and_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = Objects::open(dir.path()).expect("a store");
        fs::create_dir(dir.path().join("bgp")).expect("made");
        fs::write(dir.path().join("bgp/tor"), "open sesame\n").expect("written");
        let asked = [secret("tor"), secret("gone")].into();
        let found = find(Some(dir.path()), &objects, &asked).expect("files are known at once");
        assert_eq!(found[&secret("tor")].as_ref().map(Password::text), Ok("open sesame"));
        assert!(found[&secret("gone")].as_ref().is_err_and(|why| why.contains("bgpPasswords")));
    }

    #[test]
    fn without_a_folder_a_directory_of_manifests_has_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = Objects::open(dir.path()).expect("a store");
        let found = find(None, &objects, &[secret("tor")].into()).expect("known at once");
        assert!(found[&secret("tor")].as_ref().is_err_and(|why| why.contains("names no folder")));
    }
}
