//! Settings: from flags, environment and a file to one checked value.
//! In: `RunArgs` (flags, else TORTIE_* variables) and a YAML file. Out: [`Config`].
//! Invariant: flags win over the environment, the environment over the file, the file over defaults.
//! Never: guesses what an unknown field means; one clear error names it.

mod etcd;
mod mirror;

use crate::{allocate::keep::StickyAddresses, bird, chores::Chores, detect::Methods, proxy::Services};
use abi::{Timeout, Timeouts};
use calc::{NodePortAddresses, autodetection::Method};
use clap::{Args, ValueEnum};
use dataplane::{Cgroup, Options, Sizes};
use datastore::EtcdSettings;
pub use mirror::{MirrorConfig, MirrorSettings};
use model::{Cidr, Family, IfaceName, NodeName};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Where the agent's private state lies unless told otherwise.
pub const STATE_DIR: &str = "/var/lib/tortie";
/// Where the agent listens unless told otherwise.
pub const SOCKET: &str = "/run/tortie/tortie.sock";
/// Where maps and links are pinned unless told otherwise.
pub const BPFFS: &str = "/sys/fs/bpf/tortie";

/// Where health is asked unless told otherwise: nobody outside the host.
const HEALTH_ADDRESS: &str = "127.0.0.1:9099";
/// Lines of Log rules in a second, on each processor.
const POLICY_LOG_RATE: u32 = 100;

/// Services that metrics tell apart.
const SERVICE_METRICS: usize = 100;

/// Where metrics are asked unless told otherwise: nobody outside the host.
const METRICS_ADDRESS: &str = "127.0.0.1:9091";

/// What happens to flows that a new policy refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum EstablishedFlows {
    /// They end.
    Cut,
    /// They live until they close, as in Calico.
    Keep,
}

/// Who makes the routes to other nodes' blocks, and to this one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum NodeRoutes {
    /// The agent, where packets need no wrapping.
    #[default]
    On,
    /// Somebody else.
    Off,
}

/// Nodes' own networks (`spec.podCIDRs`) in the place of pools, as flannel has them, and how packets go there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum PodCidrs {
    /// Pods get addresses of pools, or whatever their network's IPAM gives.
    #[default]
    Off,
    /// They are routed as they are: every node is a neighbour, or routers know the way.
    Direct,
    /// By VXLAN.
    Vxlan,
    /// By VXLAN to nodes that are no neighbours.
    CrossSubnet,
}

impl From<PodCidrs> for calc::PodCidrs {
    fn from(how: PodCidrs) -> Self {
        match how {
            PodCidrs::Off => Self::Off,
            PodCidrs::Direct => Self::Direct,
            PodCidrs::Vxlan => Self::Vxlan,
            PodCidrs::CrossSubnet => Self::CrossSubnet,
        }
    }
}

/// Whether BIRD speaks BGP for this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Bgp {
    /// It does, and the agent tells it what to say.
    On,
    /// It does not.
    #[default]
    Off,
}

/// How programs are put on interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Attach {
    /// By clsact while pods come, and by TCX, where the kernel has it, when none has come for a second.
    #[default]
    Auto,
    /// By TCX (Linux 6.6 and later).
    Tcx,
    /// By clsact.
    Clsact,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the cluster's objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datastore {
    /// A directory of manifests.
    Directory(PathBuf),
    /// The API server that this kubeconfig names, else that of the pod the agent runs in; and its mirror, if there is one.
    Kubernetes(Option<PathBuf>, Option<EtcdSettings>),
    /// An etcd in which Calico's objects are; and the API server that knows the pods, if there is one.
    Etcd(EtcdSettings, Option<PathBuf>),
}

/// Every setting as it may be given, by flag, variable or file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Name of this node in the datastore [default: the host's name]
    #[arg(long, env = "TORTIE_NODE")]
    node: Option<String>,
    /// Where the cluster's objects come from: file:DIR, a directory of manifests, kubernetes, or etcd in Calico's layout
    #[arg(long, env = "TORTIE_DATASTORE")]
    datastore: Option<String>,
    /// Which API server, and as whom [default: that of the pod the agent runs in, by its service account]; with etcd the one that is
    /// asked for the labels of this node's pods [default: none]
    #[arg(long, env = "TORTIE_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Where a mirror of the API server is read, as URLs of an etcd's members or of its grpc-proxies; repeatable, in the variable
    /// separated by commas [default: there is none, and the API server is asked itself]
    #[arg(long, env = "TORTIE_MIRROR", value_name = "URL", value_delimiter = ',')]
    mirror: Vec<String>,
    /// Members of etcd, as URLs; repeatable, in the variable separated by commas
    #[arg(long, env = "TORTIE_ETCD_ENDPOINTS", value_name = "URL", value_delimiter = ',')]
    etcd_endpoints: Vec<String>,
    /// Who signed the certificates of etcd's members, for URLs with https
    #[arg(long, env = "TORTIE_ETCD_CA_CERT_FILE", value_name = "FILE")]
    etcd_ca_cert_file: Option<PathBuf>,
    /// The certificate by which etcd knows this agent
    #[arg(long, env = "TORTIE_ETCD_CERT_FILE", value_name = "FILE")]
    etcd_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "TORTIE_ETCD_KEY_FILE", value_name = "FILE")]
    etcd_key_file: Option<PathBuf>,
    /// The name by which etcd knows this agent
    #[arg(long, env = "TORTIE_ETCD_USERNAME", value_name = "NAME")]
    etcd_username: Option<String>,
    /// The file that holds its password
    #[arg(long, env = "TORTIE_ETCD_PASSWORD_FILE", value_name = "FILE")]
    etcd_password_file: Option<PathBuf>,
    /// Private state: attachments, sysctls to give back [default: /var/lib/tortie]
    #[arg(long, env = "TORTIE_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Where tortie-cni and the read commands find the agent [default: /run/tortie/tortie.sock]
    #[arg(long, env = "TORTIE_SOCKET")]
    socket: Option<PathBuf>,
    /// The configuration for container runtimes, written here once pods can be served [default: none is written]
    #[arg(long, env = "TORTIE_CNI_CONF", value_name = "FILE")]
    cni_conf: Option<PathBuf>,
    /// Where maps and links are pinned [default: /sys/fs/bpf/tortie]
    #[arg(long, env = "TORTIE_BPFFS")]
    bpffs: Option<PathBuf>,
    /// Interface towards the network [default: that of the default route, if there is one]
    #[arg(long, env = "TORTIE_UPLINK")]
    uplink: Option<String>,
    /// Largest packet of pods, bytes [default: the uplink's, else 1500]
    #[arg(long, env = "TORTIE_MTU")]
    mtu: Option<u32>,
    /// What happens to flows that a new policy refuses [default: cut]
    #[arg(long, env = "TORTIE_ESTABLISHED_FLOWS", value_enum)]
    established_flows: Option<EstablishedFlows>,
    /// Pods whose addresses are held for their names once they are gone [default: annotated]
    #[arg(long, env = "TORTIE_STICKY_ADDRESSES", value_enum)]
    sticky_addresses: Option<StickyAddresses>,
    /// Who makes the routes to other nodes' blocks, and to this one's: the agent, or somebody else [default: on]
    #[arg(long, env = "TORTIE_NODE_ROUTES", value_enum)]
    node_routes: Option<NodeRoutes>,
    /// Nodes' own networks (spec.podCIDRs) are what pods have addresses of, and how they are reached, as with flannel [default: off]
    #[arg(long, env = "TORTIE_POD_CIDRS", value_enum)]
    pod_cidrs: Option<PodCidrs>,
    /// How this node's IPv4 address for the other nodes is found: kubernetes-internal-ip, first-found, interface=REGEX[,...],
    /// skip-interface=REGEX[,...], can-reach=HOST or cidr=CIDR[,...] [default: kubernetes-internal-ip, as its Node says]
    #[arg(long, env = "TORTIE_IP_AUTODETECTION", value_name = "METHOD")]
    ip_autodetection: Option<String>,
    /// The same for IPv6
    #[arg(long, env = "TORTIE_IP6_AUTODETECTION", value_name = "METHOD")]
    ip6_autodetection: Option<String>,
    /// Whether BIRD 2 speaks BGP for this node, as BGPConfiguration, BGPPeer and BGPFilter say [default: off]
    #[arg(long, env = "TORTIE_BGP", value_enum)]
    bgp: Option<Bgp>,
    /// The program bird, of version 2 [default: bird]
    #[arg(long, env = "TORTIE_BIRD", value_name = "FILE")]
    bird: Option<PathBuf>,
    /// Where passwords of BGP sessions are: DIR/SECRET/KEY, as a Secret is mounted [default: there are none]
    #[arg(long, env = "TORTIE_BGP_PASSWORDS", value_name = "DIR")]
    bgp_passwords: Option<PathBuf>,
    /// How programs are put on interfaces [default: auto]
    #[arg(long, env = "TORTIE_ATTACH", value_enum)]
    attach: Option<Attach>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as dataplane=debug,info [default: info]
    #[arg(long, env = "TORTIE_LOG")]
    log: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, env = "TORTIE_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
    /// Where /liveness and /readiness answer, or `off` [default: 127.0.0.1:9099]
    #[arg(long, env = "TORTIE_HEALTH_ADDRESS")]
    health_address: Option<String>,
    /// Where /metrics answers, or `off` [default: 127.0.0.1:9091]
    #[arg(long, env = "TORTIE_METRICS_ADDRESS")]
    metrics_address: Option<String>,
    /// Size of a kernel table, as NAME=ENTRIES; repeatable, in the variable separated by commas
    #[arg(long, env = "TORTIE_MAP_ENTRIES", value_name = "NAME=ENTRIES", value_delimiter = ',', value_parser = map_entry)]
    #[serde(skip)]
    map_entries: Vec<(String, u32)>,
    #[arg(skip)]
    #[serde(rename = "mapEntries")]
    map_entries_of_file: BTreeMap<String, u32>,
    /// Idle seconds after which a tracked flow is forgotten, as NAME=SECONDS; repeatable, in the variable separated by commas
    #[arg(long, env = "TORTIE_CONNTRACK_TIMEOUTS", value_name = "NAME=SECONDS", value_delimiter = ',', value_parser = timeout)]
    #[serde(skip)]
    conntrack_timeouts: Vec<(String, u32)>,
    #[arg(skip)]
    #[serde(rename = "conntrackTimeouts")]
    conntrack_timeouts_of_file: BTreeMap<String, u32>,
    /// Tracked flows that one pod may own [default: an eighth of the table CONNTRACK]
    #[arg(long, env = "TORTIE_FLOW_QUOTA", value_name = "FLOWS")]
    flow_quota: Option<u32>,
    /// Lines that Log rules may write in a second, on each processor; 0: none [default: 100]
    #[arg(long, env = "TORTIE_POLICY_LOG_RATE", value_name = "LINES")]
    policy_log_rate: Option<u32>,
    /// Node ports are served at this node's addresses in these networks, or at `primary`: the first of each family that its
    /// Node object has; repeatable, in the variable separated by commas [default: at all of them]
    #[arg(long, env = "TORTIE_NODE_PORT_ADDRESSES", value_name = "CIDR", value_delimiter = ',')]
    node_port_addresses: Vec<String>,
    /// Services that metrics tell apart; of the others they have sums [default: 100]
    #[arg(long, env = "TORTIE_SERVICE_METRICS", value_name = "SERVICES")]
    service_metrics: Option<usize>,
    /// The cgroup, of version 2, whose processes reach services by the node's own sockets; `none`: all do, packet by packet; `off`:
    /// none does [default: the root]
    #[arg(long, env = "TORTIE_CGROUP", value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Who translates services [default: auto]
    #[arg(long, env = "TORTIE_SERVICES", value_enum)]
    services: Option<Services>,
    /// Who takes back addresses whose pods are gone, and what belonged to nodes that are gone [default: auto, one of the agents where
    /// no pod of calico-kube-controllers is in the cluster]
    #[arg(long, env = "TORTIE_CHORES", value_enum)]
    chores: Option<Chores>,
}

/// The agent's settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's name.
    pub node: NodeName,
    /// Where the cluster's objects come from.
    pub datastore: Datastore,
    /// Private state.
    pub state_dir: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
    /// Where the configuration for container runtimes is written, if it is.
    pub cni_conf: Option<PathBuf>,
    /// Pins.
    pub bpffs: PathBuf,
    /// Interface towards the network, if it was given.
    pub uplink: Option<IfaceName>,
    /// Largest packet of pods, if it was given.
    pub mtu: Option<u32>,
    /// Allowed flows outlive a new deny.
    pub keep_established: bool,
    /// Whose addresses outlive them.
    pub sticky_addresses: StickyAddresses,
    /// Who makes the routes to other nodes.
    pub node_routes: NodeRoutes,
    /// Whether nodes' own networks are routed, and how.
    pub pod_cidrs: PodCidrs,
    /// How this node's addresses for the other nodes are found.
    pub detection: Methods,
    /// How BIRD is started, where it speaks BGP for this node.
    pub bird: Option<bird::Settings>,
    /// How programs are put on interfaces.
    pub attach: Attach,
    /// Log filter.
    pub log: String,
    /// It was given: the cluster does not decide.
    pub log_is_given: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where the agent's health can be asked; `None`: nowhere.
    pub health_address: Option<SocketAddr>,
    /// Where the agent's metrics can be asked; `None`: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// Table sizes that differ from the defaults.
    pub map_entries: BTreeMap<String, u32>,
    /// How long flows live without a packet.
    pub timeouts: Timeouts,
    /// Flows that one pod may own, if it was given.
    pub flow_quota: Option<u32>,
    /// Lines that Log rules may write in a second, on each processor.
    pub policy_log_rate: u32,
    /// At which of this node's addresses node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Services that metrics tell apart.
    pub service_metrics: usize,
    /// Whose sockets reach services.
    pub cgroup: Cgroup,
    /// Who translates services.
    pub services: Services,
    /// Who does what one agent does for all.
    pub chores: Chores,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be opened.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no valid configuration.
    #[error("{path}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, field and what is wrong.
        problem: String,
    },
    /// A value that makes no sense.
    #[error("{setting}: {problem}")]
    Value {
        /// The setting, as a flag.
        setting: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl Config {
    /// Joins flags (with the environment) and the file, and checks everything once.
    pub fn load(file: Option<&Path>, flags: Settings) -> Result<Self, ConfigError> {
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        flags.over(file).check()
    }

    /// Whether this agent may be the one that does chores. Etcd does not say whether Calico's own controllers run.
    pub fn does_chores(&self) -> bool {
        match self.chores {
            Chores::Auto => !matches!(self.datastore, Datastore::Etcd(..)),
            Chores::On => true,
            Chores::Off => false,
        }
    }

    /// What the dataplane is opened with.
    pub fn dataplane(&self, object: &[u8], uplink: Option<IfaceName>) -> Options {
        Options {
            bpffs: self.bpffs.clone(),
            object: object.to_vec(),
            entries: self.map_entries.clone(),
            uplink,
            state_dir: self.state_dir.clone(),
            attach: match self.attach {
                Attach::Auto => dataplane::Attach::Auto,
                Attach::Tcx => dataplane::Attach::Tcx,
                Attach::Clsact => dataplane::Attach::Clsact,
            },
            timeouts: self.timeouts,
            flow_quota: self.flow_quota,
            log_rate: self.policy_log_rate,
            cgroup: self.cgroup.clone(),
        }
    }
}

impl Settings {
    fn over(self, file: Self) -> Self {
        let mut entries = file.map_entries_of_file;
        entries.extend(self.map_entries);
        let mut timeouts = file.conntrack_timeouts_of_file;
        timeouts.extend(self.conntrack_timeouts);
        Self {
            node: self.node.or(file.node),
            datastore: self.datastore.or(file.datastore),
            kubeconfig: self.kubeconfig.or(file.kubeconfig),
            mirror: if self.mirror.is_empty() { file.mirror } else { self.mirror },
            etcd_endpoints: if self.etcd_endpoints.is_empty() { file.etcd_endpoints } else { self.etcd_endpoints },
            etcd_ca_cert_file: self.etcd_ca_cert_file.or(file.etcd_ca_cert_file),
            etcd_cert_file: self.etcd_cert_file.or(file.etcd_cert_file),
            etcd_key_file: self.etcd_key_file.or(file.etcd_key_file),
            etcd_username: self.etcd_username.or(file.etcd_username),
            etcd_password_file: self.etcd_password_file.or(file.etcd_password_file),
            state_dir: self.state_dir.or(file.state_dir),
            socket: self.socket.or(file.socket),
            cni_conf: self.cni_conf.or(file.cni_conf),
            bpffs: self.bpffs.or(file.bpffs),
            uplink: self.uplink.or(file.uplink),
            mtu: self.mtu.or(file.mtu),
            established_flows: self.established_flows.or(file.established_flows),
            sticky_addresses: self.sticky_addresses.or(file.sticky_addresses),
            node_routes: self.node_routes.or(file.node_routes),
            pod_cidrs: self.pod_cidrs.or(file.pod_cidrs),
            ip_autodetection: self.ip_autodetection.or(file.ip_autodetection),
            ip6_autodetection: self.ip6_autodetection.or(file.ip6_autodetection),
            bgp: self.bgp.or(file.bgp),
            bird: self.bird.or(file.bird),
            bgp_passwords: self.bgp_passwords.or(file.bgp_passwords),
            attach: self.attach.or(file.attach),
            log: self.log.or(file.log),
            log_format: self.log_format.or(file.log_format),
            health_address: self.health_address.or(file.health_address),
            metrics_address: self.metrics_address.or(file.metrics_address),
            map_entries: Vec::new(),
            map_entries_of_file: entries,
            conntrack_timeouts: Vec::new(),
            conntrack_timeouts_of_file: timeouts,
            flow_quota: self.flow_quota.or(file.flow_quota),
            policy_log_rate: self.policy_log_rate.or(file.policy_log_rate),
            service_metrics: self.service_metrics.or(file.service_metrics),
            node_port_addresses: if self.node_port_addresses.is_empty() {
                file.node_port_addresses
            } else {
                self.node_port_addresses
            },
            cgroup: self.cgroup.or(file.cgroup),
            services: self.services.or(file.services),
            chores: self.chores.or(file.chores),
        }
    }

    fn check(self) -> Result<Config, ConfigError> {
        Sizes::asked(&self.map_entries_of_file).map_err(|error| value("--map-entries", error.to_string()))?;
        let datastore = datastore(
            self.datastore,
            self.kubeconfig,
            self.mirror,
            etcd::Given {
                endpoints: self.etcd_endpoints,
                ca_cert_file: self.etcd_ca_cert_file,
                cert_file: self.etcd_cert_file,
                key_file: self.etcd_key_file,
                username: self.etcd_username,
                password_file: self.etcd_password_file,
            },
        )?;
        let pod_cidrs = self.pod_cidrs.unwrap_or_default();
        if pod_cidrs != PodCidrs::Off && matches!(datastore, Datastore::Etcd(..)) {
            let problem = "Calico's Nodes in etcd have no spec.podCIDRs: give another --datastore, or pools";
            return Err(value("--pod-cidrs", problem));
        }
        Ok(Config {
            node: node_name(self.node)?,
            datastore,
            pod_cidrs,
            state_dir: self.state_dir.unwrap_or_else(|| STATE_DIR.into()),
            socket: self.socket.unwrap_or_else(|| SOCKET.into()),
            cni_conf: self.cni_conf,
            bpffs: self.bpffs.unwrap_or_else(|| BPFFS.into()),
            uplink: self.uplink.map(interface_name).transpose()?,
            mtu: self.mtu.map(mtu).transpose()?,
            keep_established: self.established_flows == Some(EstablishedFlows::Keep),
            sticky_addresses: self.sticky_addresses.unwrap_or_default(),
            node_routes: self.node_routes.unwrap_or_default(),
            detection: Methods {
                v4: method("--ip-autodetection", self.ip_autodetection, Family::V4)?,
                v6: method("--ip6-autodetection", self.ip6_autodetection, Family::V6)?,
            },
            bird: (self.bgp == Some(Bgp::On)).then(|| bird::Settings {
                program: self.bird.unwrap_or_else(|| "bird".into()),
                passwords: self.bgp_passwords,
            }),
            attach: self.attach.unwrap_or_default(),
            log_is_given: self.log.is_some(),
            log: self.log.unwrap_or_else(|| "info".to_owned()),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            health_address: address("--health-address", self.health_address, HEALTH_ADDRESS)?,
            metrics_address: address("--metrics-address", self.metrics_address, METRICS_ADDRESS)?,
            map_entries: self.map_entries_of_file,
            timeouts: timeouts(&self.conntrack_timeouts_of_file)?,
            flow_quota: self.flow_quota.map(flow_quota).transpose()?,
            policy_log_rate: self.policy_log_rate.unwrap_or(POLICY_LOG_RATE),
            node_port_addresses: node_port_addresses(&self.node_port_addresses)?,
            service_metrics: self.service_metrics.unwrap_or(SERVICE_METRICS),
            cgroup: cgroup(self.cgroup),
            services: self.services.unwrap_or_default(),
            chores: self.chores.unwrap_or_default(),
        })
    }
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Settings::default());
    }
    serde_saphyr::from_str(&text).map_err(|error| {
        let what = error.without_snippet().to_string();
        let problem = what.lines().next().unwrap_or("not readable as YAML").to_owned();
        ConfigError::Invalid { path: path.to_owned(), problem }
    })
}

fn value(setting: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { setting, problem: problem.into() }
}

fn node_name(given: Option<String>) -> Result<NodeName, ConfigError> {
    // Kubernetes registers a node under its lower-case host name.
    let host = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name = given.unwrap_or_else(host);
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 253 || !name.chars().all(valid) {
        return Err(value("--node", format!("{name:?} is no node name: use lower-case letters, digits, '-' and '.'")));
    }
    Ok(name.into())
}

fn datastore(
    given: Option<String>,
    kubeconfig: Option<PathBuf>,
    mirror: Vec<String>,
    etcd: etcd::Given,
) -> Result<Datastore, ConfigError> {
    let wanted = "give file:DIR, a directory of manifests, kubernetes, or etcd";
    let text = given.ok_or_else(|| value("--datastore", format!("not set: {wanted}")))?;
    let is_mirrored = !mirror.is_empty();
    if is_mirrored && text != "kubernetes" {
        return Err(value("--mirror", "a mirror is of an API server: give --datastore kubernetes, or leave it out"));
    }
    if text == "etcd" {
        return Ok(Datastore::Etcd(etcd.check("--etcd-endpoints")?, kubeconfig));
    }
    let mirror = if is_mirrored { Some(etcd.of_mirror(mirror)?) } else { etcd.refuse().map(|()| None)? };
    match (directory(&text), kubeconfig) {
        (Some(dir), None) => Ok(Datastore::Directory(dir)),
        (Some(_), Some(_)) => Err(value("--kubeconfig", "a directory of manifests has none: leave it out")),
        (None, kubeconfig) if text == "kubernetes" => Ok(Datastore::Kubernetes(kubeconfig, mirror)),
        (None, _) => Err(value("--datastore", format!("{text:?} is not supported: {wanted}"))),
    }
}

/// A directory of manifests, where nothing else will do.
pub fn manifests(text: &str) -> Result<PathBuf, ConfigError> {
    directory(text).ok_or_else(|| value("--datastore", format!("{text:?} is not supported here: give file:DIR")))
}

fn directory(text: &str) -> Option<PathBuf> {
    text.strip_prefix("file:").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

fn interface_name(name: String) -> Result<IfaceName, ConfigError> {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(forbidden) {
        return Err(value("--uplink", format!("{name:?} is no interface name: at most 15 characters, no '/'")));
    }
    Ok(IfaceName(name))
}

fn method(setting: &'static str, given: Option<String>, family: Family) -> Result<Method, ConfigError> {
    let read = |text: String| text.parse::<Method>().and_then(|method| method.of(family));
    given.map(read).transpose().map(Option::unwrap_or_default).map_err(|error| value(setting, error.to_string()))
}

fn mtu(bytes: u32) -> Result<u32, ConfigError> {
    // 1280 is the least that IPv6 works with (RFC 8200 §5).
    if (1280..=65_535).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(value("--mtu", format!("{bytes} is not between 1280 and 65535")))
    }
}

/// `off` is nowhere.
fn address(setting: &'static str, given: Option<String>, default: &str) -> Result<Option<SocketAddr>, ConfigError> {
    let text = given.unwrap_or_else(|| default.to_owned());
    if text == "off" {
        return Ok(None);
    }
    let wrong = || value(setting, format!("{text:?} is no address and port such as {default}, nor `off`"));
    text.parse().map(Some).map_err(|_| wrong())
}

fn cgroup(given: Option<PathBuf>) -> Cgroup {
    match given {
        None => Cgroup::Root,
        Some(path) if path == Path::new("none") => Cgroup::None,
        Some(path) if path == Path::new("off") => Cgroup::Off,
        Some(path) => Cgroup::At(path),
    }
}

fn timeouts(given: &BTreeMap<String, u32>) -> Result<Timeouts, ConfigError> {
    let mut timeouts = Timeouts::DEFAULT;
    for (name, seconds) in given {
        let known = || Timeout::ALL.iter().map(|timeout| timeout.as_str()).collect::<Vec<_>>().join(", ");
        let Some(timeout) = Timeout::ALL.iter().find(|timeout| timeout.as_str() == name) else {
            return Err(value("--conntrack-timeouts", format!("there is no timeout {name}; there are {}", known())));
        };
        if *seconds == 0 || *seconds > Timeouts::SECONDS_MAX {
            let most = Timeouts::SECONDS_MAX;
            return Err(value("--conntrack-timeouts", format!("{name}={seconds}: not between 1 and {most} seconds")));
        }
        timeouts = timeouts.with(*timeout, *seconds);
    }
    Ok(timeouts)
}

fn node_port_addresses(given: &[String]) -> Result<NodePortAddresses, ConfigError> {
    if given == ["primary"] {
        return Ok(NodePortAddresses::Primary);
    }
    let read = |text: &String| {
        let wrong = |error| value("--node-port-addresses", format!("{error}; give networks, or `primary` alone"));
        text.parse::<Cidr>().map_err(wrong)
    };
    given.iter().map(read).collect::<Result<_, _>>().map(NodePortAddresses::Within)
}

fn flow_quota(flows: u32) -> Result<u32, ConfigError> {
    if flows == 0 { Err(value("--flow-quota", "0: a pod needs at least one flow")) } else { Ok(flows) }
}

fn timeout(text: &str) -> Result<(String, u32), String> {
    let (name, seconds) = text.split_once('=').ok_or("write it as NAME=SECONDS")?;
    let seconds = seconds.parse().map_err(|_| format!("{seconds:?} is no number of seconds"))?;
    Ok((name.to_owned(), seconds))
}

fn map_entry(text: &str) -> Result<(String, u32), String> {
    let (name, entries) = text.split_once('=').ok_or("write it as NAME=ENTRIES")?;
    let entries = entries.parse().map_err(|_| format!("{entries:?} is no number of entries"))?;
    Ok((name.to_owned(), entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: Settings) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("tortie.yaml");
        fs::write(&path, text).expect("the file is written");
        Config::load(Some(&path), flags).map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let flags = Settings { node: Some("n1".into()), ..Settings::default() };
        let config = load("node: n2\ndatastore: file:/d\nmtu: 1400\nestablishedFlows: keep\n", flags).expect("valid");
        assert_eq!((&*config.node.0, config.mtu, config.keep_established), ("n1", Some(1400), true));
        assert_eq!(config.socket, PathBuf::from(SOCKET));
    }

    #[test]
    fn who_translates_services_is_found_out_unless_it_is_said() {
        let services =
            |text: &str, flags| load(&format!("datastore: file:/d\nnode: n1\n{text}"), flags).map(|c| c.services);
        assert_eq!(services("", Settings::default()), Ok(Services::Auto));
        assert_eq!(services("services: kube-proxy\n", Settings::default()), Ok(Services::KubeProxy));
        let flags = Settings { services: Some(Services::Tortie), ..Settings::default() };
        assert_eq!(services("services: auto\n", flags), Ok(Services::Tortie));
        assert!(services("services: felix\n", Settings::default()).is_err_and(|error| error.contains("kube-proxy")));
    }

    #[test]
    fn an_unknown_field_is_named_with_its_file_and_line() {
        let error = load("datastore: file:/d\nnodename: n1\n", Settings::default()).expect_err("a wrong field");
        for part in ["tortie.yaml", "nodename", "line 2"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn values_without_sense_are_refused_by_their_flag() {
        for (text, flag) in [
            ("node: n1\n", "--datastore"),
            ("datastore: consul\n", "--datastore"),
            ("datastore: etcd\nnode: n1\n", "--etcd-endpoints"),
            ("datastore: file:/d\nnode: n1\netcdEndpoints: [http://e:2379]\n", "--etcd-endpoints"),
            ("datastore: etcd\nnode: n1\netcdEndpoints: [http://e:2379]\netcdCertFile: /c\n", "--etcd-key-file"),
            ("datastore: etcd\nnode: n1\netcdEndpoints: [http://e:2379]\netcdKeyFile: /c\n", "--etcd-cert-file"),
            ("datastore: etcd\nnode: n1\netcdEndpoints: [http://e:2379]\netcdUsername: c\n", "--etcd-password-file"),
            ("datastore: etcd\nnode: n1\netcdEndpoints: [http://e:2379]\netcdPasswordFile: /c\n", "--etcd-username"),
            ("datastore: etcd\nnode: n1\netcdEndpoints: ['']\n", "--etcd-endpoints"),
            ("datastore: file:/d\nkubeconfig: /k\nnode: n1\n", "--kubeconfig"),
            ("datastore: file:/d\nmirror: [http://e:2379]\nnode: n1\n", "--mirror"),
            ("datastore: kubernetes\nmirror: ['']\nnode: n1\n", "--mirror"),
            (
                "datastore: kubernetes\nmirror: [http://e:2379]\netcdCertFile: /c\netcdKeyFile: /k\nnode: n1\n",
                "--mirror",
            ),
            (
                "datastore: kubernetes\nmirror: [http://e:2379]\netcdEndpoints: [http://e:2379]\nnode: n1\n",
                "--etcd-endpoints",
            ),
            ("datastore: kubernetes\netcdCaCertFile: /c\nnode: n1\n", "--etcd-ca-cert-file"),
            ("datastore: file:/d\nnode: N_1\n", "--node"),
            ("datastore: file:/d\nnode: n1\nmtu: 100\n", "--mtu"),
            ("datastore: etcd\nnode: n1\netcdEndpoints: ['http://e:2379']\npodCidrs: vxlan\n", "--pod-cidrs"),
            ("datastore: file:/d\nnode: n1\nipAutodetection: eth0\n", "--ip-autodetection: \"eth0\""),
            ("datastore: file:/d\nnode: n1\nip6Autodetection: cidr=10.0.0.0/8\n", "--ip6-autodetection"),
            ("datastore: file:/d\nnode: n1\nuplink: a/b\n", "--uplink"),
            ("datastore: file:/d\nnode: n1\nhealthAddress: here\n", "--health-address"),
            ("datastore: file:/d\nnode: n1\nmetricsAddress: 9091\n", "--metrics-address"),
            ("datastore: file:/d\nnode: n1\nmapEntries: {NOTHING: 4}\n", "--map-entries"),
            ("datastore: file:/d\nnode: n1\nmapEntries: {ENDPOINTS: 64, INTERFACES: 16}\n", "INTERFACES=16"),
            (
                "datastore: file:/d\nnode: n1\nconntrackTimeouts: {tcp: 4}\n",
                "--conntrack-timeouts: there is no timeout tcp",
            ),
            ("datastore: file:/d\nnode: n1\nconntrackTimeouts: {udp: 0}\n", "--conntrack-timeouts: udp=0"),
            ("datastore: file:/d\nnode: n1\nconntrackTimeouts: {udp: 3000000}\n", "--conntrack-timeouts: udp=3000000"),
            ("datastore: file:/d\nnode: n1\nflowQuota: 0\n", "--flow-quota"),
            ("datastore: file:/d\nnode: n1\nnodePortAddresses: [10.0.0.0]\n", "--node-port-addresses"),
            ("datastore: file:/d\nnode: n1\nnodePortAddresses: [primary, 10.0.0.0/8]\n", "`primary` alone"),
        ] {
            let error = load(text, Settings::default()).expect_err(text);
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn the_cgroup_is_the_root_unless_it_is_named_none_or_off() {
        let cgroup = |text: &str| {
            load(&format!("datastore: file:/d\nnode: n1\n{text}"), Settings::default()).map(|config| config.cgroup)
        };
        assert_eq!(cgroup(""), Ok(Cgroup::Root));
        assert_eq!(cgroup("cgroup: none\n"), Ok(Cgroup::None));
        assert_eq!(cgroup("cgroup: off\n"), Ok(Cgroup::Off));
        assert_eq!(cgroup("cgroup: /sys/fs/cgroup/a\n"), Ok(Cgroup::At("/sys/fs/cgroup/a".into())));
    }

    #[test]
    fn table_sizes_of_flags_and_file_are_joined() {
        let flags = Settings { map_entries: vec![("CONNTRACK".into(), 64)], ..Settings::default() };
        let config = load("datastore: file:/d\nnode: n1\nmapEntries: {CONNTRACK: 1, ROWS: 2}\n", flags).expect("valid");
        assert_eq!(config.map_entries, BTreeMap::from([("CONNTRACK".to_owned(), 64), ("ROWS".to_owned(), 2)]));
    }
    #[test]
    fn pkt_70_timeouts_of_flags_and_file_are_joined_over_the_defaults() {
        let flags = Settings { conntrack_timeouts: vec![("udp".into(), 30)], ..Settings::default() };
        let text = "datastore: file:/d\nnode: n1\nconntrackTimeouts: {udp: 10, tcpEstablished: 7200}\nflowQuota: 9\n";
        let config = load(text, flags).expect("valid");
        let expected = Timeouts::DEFAULT.with(Timeout::Udp, 30).with(Timeout::TcpEstablished, 7200);
        assert_eq!((config.timeouts, config.flow_quota), (expected, Some(9)));
    }
}
