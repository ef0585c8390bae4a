//! What `deploy` says, and what tests set otherwise.
//! In: the files as they are shipped. Out: their objects.
//! Invariant: kustomize is kubectl's own.
//! Never: applies anything.

use anyhow::{Context as _, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use tests::Cluster;

/// Where the files are.
pub const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// The objects of a text, by kind and name.
pub fn objects(text: &str) -> Result<BTreeMap<(String, String), Value>> {
    let documents =
        text.split("\n---\n").filter(|text| text.lines().any(|line| !line.starts_with('#') && line != "---"));
    documents
        .map(|document| {
            let object: Value = serde_saphyr::from_str(document).context("reading an object")?;
            let word = |value: &Value| value.as_str().map(str::to_owned).context("a word");
            Ok(((word(&object["kind"])?, word(&object["metadata"]["name"])?), object))
        })
        .collect()
}

/// What a folder of them says as a whole.
pub fn kustomized(cluster: &Cluster, folder: &str) -> Result<String> {
    cluster.kubectl(&["kustomize", &format!("{DEPLOY}/{folder}")], "")
}

/// What tests set otherwise of an agent: one uplink and small tables, as other nodes of the tests; the machine's own cgroup is left
/// alone, so that the node's sockets reach services packet by packet.
pub const SETTINGS: [(&str, &str); 3] = [
    ("TORTIE_UPLINK", "eth0"),
    ("TORTIE_CGROUP", "none"),
    ("TORTIE_MAP_ENTRIES", "CONNTRACK=65536,SPANS=65536,ROWS=16384,ADDRESSES=8192,NETS=8192,CLASSES=16384,HITS=8192"),
];

/// Where the API server is, as its clients are told: host and port.
pub fn api_server(cluster: &Cluster) -> Result<(String, String)> {
    let server = config(cluster)?["server"].as_str().context("a server")?.to_owned();
    let (host, port) = server.strip_prefix("https://").and_then(|it| it.rsplit_once(':')).context("a port")?;
    Ok((host.to_owned(), port.to_owned()))
}

/// The cluster of the administrator's kubeconfig.
pub fn config(cluster: &Cluster) -> Result<Value> {
    let config: Value = serde_json::from_str(&cluster.kubectl(&["config", "view", "--raw", "-o", "json"], "")?)?;
    Ok(config["clusters"][0]["cluster"].clone())
}
