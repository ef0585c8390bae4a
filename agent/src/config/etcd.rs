//! Settings of an etcd: the datastore, or the mirror of one.
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
    /// Where there is one, the endpoints of which are given by `flag`.
    pub fn check(self, flag: &'static str) -> Result<EtcdSettings, ConfigError> {
        if self.endpoints.is_empty() || self.endpoints.iter().any(String::is_empty) {
            return Err(value(flag, "not set: give the URLs of etcd's members"));
        }
        let identity = both(("--etcd-cert-file", self.cert_file), ("--etcd-key-file", self.key_file))?;
        let login = both(("--etcd-username", self.username), ("--etcd-password-file", self.password_file))?;
        let is_secret = identity.is_some() || login.is_some();
        self.endpoints.iter().try_for_each(|endpoint| checked(flag, endpoint, is_secret))?;
        Ok(EtcdSettings { endpoints: self.endpoints, ca_cert_file: self.ca_cert_file, identity, login })
    }

    /// Where a mirror is at these endpoints.
    pub fn of_mirror(self, endpoints: Vec<String>) -> Result<EtcdSettings, ConfigError> {
        if !self.endpoints.is_empty() {
            return Err(value(
                "--etcd-endpoints",
                "the datastore is not etcd: a mirror's endpoints are given by --mirror",
            ));
        }
        Self { endpoints, ..self }.check("--mirror")
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
            Some((flag, _)) => Err(value(flag, "there is no etcd, as datastore or as --mirror: leave it out")),
            None => Ok(()),
        }
    }
}

/// A password goes over no network that reads it, and stands in no URL, which is logged.
fn checked(flag: &'static str, endpoint: &str, is_secret: bool) -> Result<(), ConfigError> {
    let refused = |why: &str| Err(value(flag, why));
    let place = endpoint.split_once("://").map_or(endpoint, |(_, place)| place).split('/').next().unwrap_or_default();
    if place.contains('@') {
        return refused("a URL has no user in it: use --etcd-username and --etcd-password-file");
    }
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host).trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse().is_ok_and(|host: std::net::IpAddr| host.is_loopback());
    if is_secret && !endpoint.starts_with("https://") && !is_here {
        return refused("a password or a certificate goes by https:// only");
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_over_no_network_that_reads_them() {
        for (endpoint, is_secret) in [
            ("http://10.0.0.1:2379", false),
            ("https://etcd.example:2379", true),
            ("http://127.0.0.1:2379", true),
            ("http://[::1]:2379", true),
            ("http://localhost:2379", true),
        ] {
            assert!(checked("--mirror", endpoint, is_secret).is_ok(), "{endpoint}");
        }
        for (endpoint, is_secret) in [
            ("http://10.0.0.1:2379", true),
            ("http://etcd:2379", true),
            ("https://user:word@etcd:2379", false),
            ("http://localhost@etcd:2379", false),
        ] {
            assert!(checked("--mirror", endpoint, is_secret).is_err(), "{endpoint}");
        }
    }
}
