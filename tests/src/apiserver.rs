//! List and watch, as an API server does them, over a cluster's directory of manifests: what a real kube-proxy asks for.
//! In: a directory, a namespace to listen in. Out: an address on its loopback.
//! Invariant: whoever watches from a version on hears each later change once, in order.
//! Never: writes an object; knows more kinds than its clients ask for.

use crate::NetNs;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Paths of collections, with the kind of what is in them.
const COLLECTIONS: [(&str, &str, &str); 4] = [
    ("/api/v1/services", "v1", "Service"),
    ("/api/v1/nodes", "v1", "Node"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("/apis/networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1", "ServiceCIDR"),
];

/// A server of lists and watches.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    stop: AtomicBool,
    store: Mutex<Store>,
    changed: Condvar,
}

/// Kind, namespace, name.
type Key = (String, String, String);

#[derive(Debug, Default)]
struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    events: Vec<Event>,
}

#[derive(Debug)]
struct Event {
    version: u64,
    what: &'static str,
    object: Value,
}

/// What a request asks for.
struct Query {
    kind: &'static str,
    group: &'static str,
    name: Option<String>,
    absent_labels: Vec<String>,
    parameters: HashMap<String, String>,
}

impl ApiServer {
    /// Serves what lies in the directory, in this namespace.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start(namespace: &NetNs, directory: &Path) -> Result<Self> {
        let listener =
            namespace.inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for API clients"))?;
        let (address, listener) = (listener.local_addr()?, Arc::new(listener));
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            stop: AtomicBool::new(false),
            store: Mutex::default(),
            changed: Condvar::new(),
        });
        shared.store().take(read_all(directory));
        let (looking, accepting, serving) = (Arc::clone(&shared), Arc::clone(&listener), Arc::clone(&shared));
        let look = thread::spawn(move || looking.look());
        let accept = thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let shared = Arc::clone(&serving);
                // A client that hangs up ends its own thread.
                thread::spawn(move || shared.serve(&stream));
            }
        });
        Ok(Self { address, shared, listener, threads: vec![look, accept] })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        // A socket that listens no more lets nobody wait.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Reads the directory again whenever a file of it is another.
    fn look(&self) {
        let mut seen = fingerprint(&self.directory);
        while !self.stopped() {
            thread::sleep(LOOK);
            let now = fingerprint(&self.directory);
            if now != seen {
                seen = now;
                self.store().take(read_all(&self.directory));
                self.changed.notify_all();
            }
        }
    }

    /// One connection, request after request.
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Ok(Some((method, target))) = request(&mut reader) {
            if self.answer(stream, &method, &target).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn answer(&self, stream: &TcpStream, method: &str, target: &str) -> io::Result<()> {
        let Some(query) = Query::parse(target) else {
            // Events are taken and forgotten.
            return match method {
                "POST" => respond(stream, "201 Created", &json!({ "kind": "Event", "apiVersion": "events.k8s.io/v1" })),
                _ => respond(stream, "404 Not Found", &json!({ "kind": "Status", "apiVersion": "v1", "code": 404 })),
            };
        };
        if query.is("watch") {
            return self.watch(stream, &query);
        }
        let store = self.store();
        let found: Vec<&Value> = store.objects.values().filter(|object| query.wants(object)).collect();
        match (&query.name, found.first()) {
            (Some(_), Some(object)) => respond(stream, "200 OK", object),
            (Some(_), None) => respond(stream, "404 Not Found", &json!({ "kind": "Status", "code": 404 })),
            (None, _) => {
                let list = json!({
                    "kind": format!("{}List", query.kind), "apiVersion": query.group,
                    "metadata": { "resourceVersion": store.version.to_string() }, "items": found,
                });
                respond(stream, "200 OK", &list)
            }
        }
    }

    /// Says what changes until the client hangs up, or there is an end.
    fn watch(&self, mut stream: &TcpStream, query: &Query) -> io::Result<()> {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let mut from = query.parameters.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut store = self.store();
        if query.is("sendInitialEvents") || from == 0 {
            for object in store.objects.values().filter(|object| query.wants(object)) {
                say(stream, "ADDED", object)?;
            }
            from = store.version;
            let metadata = json!({
                "resourceVersion": from.to_string(), "annotations": { "k8s.io/initial-events-end": "true" },
            });
            say(stream, "BOOKMARK", &json!({ "kind": query.kind, "apiVersion": query.group, "metadata": metadata }))?;
        }
        while !self.stopped() {
            for event in store.events.iter().filter(|event| event.version > from && query.wants(&event.object)) {
                say(stream, event.what, &event.object)?;
            }
            from = store.version;
            store = self.changed.wait_timeout(store, LOOK * 50).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Store {
    /// The directory holds these now.
    fn take(&mut self, now: BTreeMap<Key, Value>) {
        let before = std::mem::take(&mut self.objects);
        for (key, old) in &before {
            if !now.contains_key(key) {
                self.note("DELETED", old.clone());
            }
        }
        for (key, mut object) in now {
            let old = before.get(&key);
            if let Some(old) = old {
                object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            }
            if old != Some(&object) {
                object = self.note(if old.is_some() { "MODIFIED" } else { "ADDED" }, object);
            }
            self.objects.insert(key, object);
        }
    }

    fn note(&mut self, what: &'static str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.events.push(Event { version: self.version, what, object: object.clone() });
        object
    }
}

impl Query {
    fn parse(target: &str) -> Option<Self> {
        let (path, parameters) = target.split_once('?').unwrap_or((target, ""));
        let (at, (_, group, kind)) = COLLECTIONS.iter().find_map(|row| path.strip_prefix(row.0).map(|at| (at, row)))?;
        let parameters: HashMap<String, String> = parameters
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.replace("%3D", "=").replace("%21", "!").replace("%2C", ",")))
            .collect();
        let selected = parameters.get("fieldSelector").and_then(|text| text.strip_prefix("metadata.name="));
        let name = at.strip_prefix('/').map(str::to_owned);
        let watched = if name.is_none() { selected.map(str::to_owned) } else { None };
        let absent = parameters.get("labelSelector").into_iter().flat_map(|text| text.split(','));
        let absent_labels = absent.filter_map(|term| term.strip_prefix('!')).map(str::to_owned).collect();
        let mut query = Self { kind, group, name, absent_labels, parameters };
        if let Some(name) = watched {
            query.parameters.insert("name".to_owned(), name);
        }
        Some(query)
    }

    fn is(&self, parameter: &str) -> bool {
        self.parameters.get(parameter).is_some_and(|value| value == "true" || value == "1")
    }

    fn wants(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let named = self.name.as_ref().or_else(|| self.parameters.get("name"));
        object["kind"] == self.kind
            && named.is_none_or(|name| metadata["name"] == **name)
            && self.absent_labels.iter().all(|label| metadata["labels"].get(label).is_none())
    }
}

/// Method and target of the next request; its body is read and forgotten.
fn request(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<(String, String)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    io::copy(&mut reader.take(length), &mut io::sink())?;
    Ok(Some((method, target)))
}

fn respond(mut stream: &TcpStream, status: &str, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes())
}

fn say(mut stream: &TcpStream, what: &str, object: &Value) -> io::Result<()> {
    let line = json!({ "type": what, "object": object }).to_string() + "\n";
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
}

/// Name, size and time of each file.
fn fingerprint(directory: &Path) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
    let mut files: Vec<_> = manifests(directory)
        .filter_map(|path| fs::metadata(&path).ok().map(|meta| (path, meta.len(), meta.modified().ok())))
        .collect();
    files.sort();
    files
}

fn manifests(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        !hidden && path.extension().is_some_and(|ext| ext == "yaml")
    })
}

/// All objects of the kinds that are served. A file that cannot be read is for whoever is tested to complain about.
fn read_all(directory: &Path) -> BTreeMap<Key, Value> {
    let mut objects = BTreeMap::new();
    for path in manifests(directory) {
        let text = fs::read_to_string(path).unwrap_or_default();
        for document in text.split("\n---\n").map(|part| part.trim_start_matches("---\n")) {
            let Ok(mut object) = serde_saphyr::from_str::<Value>(document) else { continue };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            if !COLLECTIONS.iter().any(|(_, _, kind)| object["kind"] == *kind) {
                continue;
            }
            fill(&mut object);
            let metadata = &object["metadata"];
            objects.insert((text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"])), object);
        }
    }
    objects
}

/// What an API server adds to an object that it takes.
fn fill(object: &mut Value) {
    let kind = object["kind"].clone();
    let uid = format!("{}-{}-{}", kind, object["metadata"]["namespace"], object["metadata"]["name"]).replace('"', "");
    object["metadata"]["uid"] = uid.into();
    let ports = if kind == "Service" { &mut object["spec"]["ports"] } else { &mut object["ports"] };
    for port in ports.as_array_mut().into_iter().flatten() {
        default(port, "protocol", json!("TCP"));
        default(port, "name", json!(""));
    }
    if kind != "Service" {
        return;
    }
    let spec = &mut object["spec"];
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    default(spec, "internalTrafficPolicy", json!("Cluster"));
    if spec["type"] != "ClusterIP" {
        default(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": 10_800 } }));
    }
    let one = json!([spec["clusterIP"].clone()]);
    default(spec, "clusterIPs", one);
    let family = |ip: &Value| if ip.as_str().is_some_and(|ip| ip.contains(':')) { "IPv6" } else { "IPv4" };
    let families: Vec<_> = spec["clusterIPs"].as_array().into_iter().flatten().map(family).collect();
    default(spec, "ipFamilies", families.into());
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}
