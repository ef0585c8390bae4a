//! Settings of an etcd.
//! In: what was given of it. Out: [`EtcdSettings`].
//! Invariant: of things that go together there is each or none.
//! Never: opens a file.

use super::{ConfigError, value};
use datastore::EtcdSettings;
use std::path::PathBuf;

/// As it was given.
pub struct Given {
    pub endpoints: Vec<String>,
    pub ca_cert_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
}

impl Given {
    /// Where etcd is the datastore.
    pub fn check(self) -> Result<EtcdSettings, ConfigError> {
        if self.endpoints.is_empty() || self.endpoints.iter().any(String::is_empty) {
            return Err(value("--etcd-endpoints", "not set: give the URLs of etcd's members"));
        }
        Ok(EtcdSettings {
            endpoints: self.endpoints,
            ca_cert_file: self.ca_cert_file,
            identity: both(("--etcd-cert-file", self.cert_file), ("--etcd-key-file", self.key_file))?,
            login: both(("--etcd-username", self.username), ("--etcd-password-file", self.password_file))?,
        })
    }

    /// Where something else is.
    pub fn refuse(&self) -> Result<(), ConfigError> {
        let given = [
            ("--etcd-endpoints", !self.endpoints.is_empty()),
            ("--etcd-ca-cert-file", self.ca_cert_file.is_some()),
            ("--etcd-cert-file", self.cert_file.is_some()),
            ("--etcd-key-file", self.key_file.is_some()),
            ("--etcd-username", self.username.is_some()),
            ("--etcd-password-file", self.password_file.is_some()),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(value(flag, "the datastore is not etcd: leave it out")),
            None => Ok(()),
        }
    }
}

fn both<A, B>(
    (flag, first): (&'static str, Option<A>),
    (other_flag, second): (&'static str, Option<B>),
) -> Result<Option<(A, B)>, ConfigError> {
    match (first, second) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(value(other_flag, format!("not set, and {flag} is"))),
        (None, Some(_)) => Err(value(flag, format!("not set, and {other_flag} is"))),
    }
}
