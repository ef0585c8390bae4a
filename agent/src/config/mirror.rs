//! Settings of a mirror.
//! In: flags, else TORTIE_* variables. Out: [`MirrorConfig`].
//! Invariant: etcd is told of as an agent is told of it.
//! Never: opens a file.

use super::{ConfigError, HEALTH_ADDRESS, LogFormat, address, etcd, node_name};
use clap::Args;
use datastore::EtcdSettings;
use model::NodeName;
use std::{net::SocketAddr, path::PathBuf};

/// Every setting as it may be given, by flag or variable.
#[derive(Args, Clone, Debug, Default)]
pub struct MirrorSettings {
    /// Name of this mirror among those of the cluster: of its node, where there is one a node [default: the host's name]
    #[arg(long, env = "TORTIE_NODE")]
    node: Option<String>,
    /// Which API server, and as whom [default: that of the pod it runs in, by its service account]
    #[arg(long, env = "TORTIE_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Members of the etcd that is written, as URLs; repeatable, in the variable separated by commas
    #[arg(long, env = "TORTIE_ETCD_ENDPOINTS", value_name = "URL", value_delimiter = ',')]
    etcd_endpoints: Vec<String>,
    /// Who signed the certificates of etcd's members, for URLs with https
    #[arg(long, env = "TORTIE_ETCD_CA_CERT_FILE", value_name = "FILE")]
    etcd_ca_cert_file: Option<PathBuf>,
    /// The certificate by which etcd knows this mirror
    #[arg(long, env = "TORTIE_ETCD_CERT_FILE", value_name = "FILE")]
    etcd_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "TORTIE_ETCD_KEY_FILE", value_name = "FILE")]
    etcd_key_file: Option<PathBuf>,
    /// The name by which etcd knows this mirror
    #[arg(long, env = "TORTIE_ETCD_USERNAME", value_name = "NAME")]
    etcd_username: Option<String>,
    /// The file that holds its password
    #[arg(long, env = "TORTIE_ETCD_PASSWORD_FILE", value_name = "FILE")]
    etcd_password_file: Option<PathBuf>,
    /// Where /liveness and /readiness answer, or `off` [default: 127.0.0.1:9099]
    #[arg(long, env = "TORTIE_HEALTH_ADDRESS")]
    health_address: Option<String>,
    /// Where /metrics answers [default: nowhere]
    #[arg(long, env = "TORTIE_METRICS_ADDRESS")]
    metrics_address: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or a filter [default: info]
    #[arg(long, env = "TORTIE_LOG")]
    log: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, env = "TORTIE_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

/// A mirror's settings, checked.
#[derive(Clone, Debug)]
pub struct MirrorConfig {
    /// Its name among mirrors.
    pub name: NodeName,
    /// Which API server.
    pub kubeconfig: Option<PathBuf>,
    /// Where it writes.
    pub etcd: EtcdSettings,
    /// Where its health can be asked; `None`: nowhere.
    pub health_address: Option<SocketAddr>,
    /// Where its metrics can be asked; `None`: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// Log filter.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl MirrorSettings {
    /// Checks everything once.
    pub fn check(self) -> Result<MirrorConfig, ConfigError> {
        let etcd = etcd::Given {
            endpoints: self.etcd_endpoints,
            ca_cert_file: self.etcd_ca_cert_file,
            cert_file: self.etcd_cert_file,
            key_file: self.etcd_key_file,
            username: self.etcd_username,
            password_file: self.etcd_password_file,
        };
        Ok(MirrorConfig {
            name: node_name(self.node)?,
            kubeconfig: self.kubeconfig,
            etcd: etcd.check("--etcd-endpoints")?,
            health_address: address("--health-address", self.health_address, HEALTH_ADDRESS)?,
            metrics_address: address("--metrics-address", self.metrics_address, "off")?,
            log: self.log.unwrap_or_else(|| "info".to_owned()),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
        })
    }
}
