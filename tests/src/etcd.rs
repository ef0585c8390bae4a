//! An etcd in which Calico's objects are, without Kubernetes.
//! In: a namespace, an address of it, a folder. Out: an etcd that is ready, and a way to put things there.
//! Invariant: whoever puts things there does so on the loopback, without certificates; agents come by the address, and with TLS where
//! it is asked for. Its process dies with the test.
//! Never: ends a process that it did not start.

use crate::{
    NetNs, binaries,
    control_plane::openssl,
    process::{log_tail, started},
    wait,
};
use anyhow::{Context as _, Result, anyhow, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

/// Where agents come, at the first member.
const PORT: u16 = 2379;
/// Where the tests come, on the loopback.
const OWN: u16 = 2378;
/// Where members speak with each other.
const PEERS: u16 = 2377;
/// Between the ports of two members.
const NEXT: u16 = 10;
/// Before the keys of Calico's resources.
pub const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
/// Who may do everything, where users have to say who they are.
const ROOT: (&str, &str) = ("root", "secret of root");
/// The agents.
const AGENT: (&str, &str) = ("tortie", "secret of tortie");

/// What runs, and where.
#[derive(Debug)]
pub struct Etcd {
    directory: PathBuf,
    address: IpAddr,
    is_secured: bool,
    token: Option<String>,
    /// Its members, as far as they run.
    children: Vec<Option<Child>>,
}

impl Etcd {
    /// Starts so many members and waits until they are ready; `is_secured`: agents need a certificate, a name and a password.
    ///
    /// # Errors
    /// It is not built, or does not come.
    pub fn start(
        namespace: &NetNs,
        address: IpAddr,
        directory: &Path,
        (members, is_secured): (usize, bool),
    ) -> Result<Self> {
        fs::create_dir_all(directory).context("making etcd's folder")?;
        let mut etcd = Self { directory: directory.to_owned(), address, is_secured, token: None, children: Vec::new() };
        etcd.children.resize_with(members, || None);
        if is_secured {
            etcd.sign()?;
        }
        etcd.run(namespace, true)?;
        if is_secured {
            etcd.ask_for_names(namespace)?;
        }
        etcd.put(namespace, "clusterinformations/default", &json!({ "spec": { "datastoreReady": true } }))?;
        Ok(etcd)
    }

    /// Starts it again, on what it had; agents are heard only if it is `open`.
    ///
    /// # Errors
    /// It does not come.
    pub fn run(&mut self, namespace: &NetNs, open: bool) -> Result<()> {
        for member in 0..self.children.len() {
            if self.children[member].is_none() {
                self.children[member] = Some(self.member(namespace, member, open)?);
            }
        }
        // Of the run before: whoever had one has to ask for one.
        let (log, asks_for_names) = (self.log(0), self.token.take().is_some());
        let ready = || Ok(if asks_for_names { self.log_in(namespace) } else { self.status(namespace) }.is_ok());
        wait::wait_until("etcd is ready", 3 * wait::PATIENCE, ready).with_context(|| log_tail(&log))
    }

    fn member(&self, namespace: &NetNs, member: usize, open: bool) -> Result<Child> {
        let scheme = if self.is_secured { "https" } else { "http" };
        let local = |first: u16, member: usize| format!("http://127.0.0.1:{}", port(first, member));
        let (own, peers) = (local(OWN, member), local(PEERS, member));
        let theirs = format!("{scheme}://{}:{}", self.address, port(PORT, member));
        let listened = if open { format!("{own},{theirs}") } else { own.clone() };
        let all: Vec<_> =
            (0..self.children.len()).map(|member| format!("m{member}={}", local(PEERS, member))).collect();
        let mut command = namespace.command(&binaries::kubernetes("etcd")?)?;
        command.args(["--unsafe-no-fsync", "--log-level", "warn", "--name", &format!("m{member}"), "--data-dir"]);
        command.arg(self.directory.join(format!("data/{member}")));
        command.args(["--listen-client-urls", &listened, "--advertise-client-urls", &own]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &all.join(",")]);
        if self.is_secured {
            let path = |name: &str| self.directory.join(name);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(path("ca.crt"));
            command.arg("--cert-file").arg(path("server.crt")).arg("--key-file").arg(path("server.key"));
        }
        started(command, &self.log(member))
    }

    fn log(&self, member: usize) -> PathBuf {
        self.directory.join(format!("etcd-{member}.log"))
    }

    fn status(&self, namespace: &NetNs) -> Result<()> {
        self.post(namespace, "/v3/maintenance/status", &json!({})).map(drop)
    }

    /// Kills all that run on the spot.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        (0..self.children.len()).try_for_each(|member| self.kill_member(member))
    }

    fn kill_member(&mut self, member: usize) -> Result<()> {
        let Some(mut child) = self.children[member].take() else { return Ok(()) };
        child.kill().context("killing etcd")?;
        child.wait().context("waiting for etcd's end")?;
        Ok(())
    }

    /// Kills the member that leads the others.
    ///
    /// # Errors
    /// None does.
    pub fn kill_leader(&mut self, namespace: &NetNs) -> Result<()> {
        let leads = |member: &usize| {
            let said = self.post_to(*member, namespace, "/v3/maintenance/status", &json!({}));
            said.is_ok_and(|said| said["leader"] == said["header"]["member_id"])
        };
        let leader = (0..self.children.len()).find(leads).context("no member leads")?;
        self.kill_member(leader)
    }

    /// Lets it say nothing, or go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn be_silent(&self, is_silent: bool) -> Result<()> {
        let signal = if is_silent { Signal::STOP } else { Signal::CONT };
        for child in self.children.iter().flatten() {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a pid is a positive number")?;
            kill_process(pid, signal).context("stopping etcd")?;
        }
        Ok(())
    }

    /// Forgets everything that it had; it does not run.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self) -> Result<()> {
        fs::remove_dir_all(self.directory.join("data")).context("removing what etcd had")
    }

    /// Takes a backup of everything that it has; it does not run.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn back_up(&self) -> Result<()> {
        self.copy("data", "backup")
    }

    /// Has what it had when the last backup was taken, and nothing else; it does not run.
    ///
    /// # Errors
    /// There is no backup.
    pub fn restore(&self) -> Result<()> {
        self.forget()?;
        self.copy("backup", "data")
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let mut command = Command::new("cp");
        command.arg("-a").args([from, to].map(|name| self.directory.join(name)));
        ensure!(command.status().context("copying what etcd has")?.success(), "{command:?} fails");
        Ok(())
    }

    /// How an agent is told of it as its datastore.
    #[must_use]
    pub fn named(&self) -> Vec<OsString> {
        ["--datastore", "etcd"].into_iter().map(Into::into).chain(self.reached("--etcd-endpoints")).collect()
    }

    /// How it is reached, its members by this option.
    #[must_use]
    pub fn reached(&self, option: &str) -> Vec<OsString> {
        let scheme = if self.is_secured { "https" } else { "http" };
        // The first is of a member that is gone.
        let ports = [PORT + 9].into_iter().chain((0..self.children.len()).map(|member| port(PORT, member)));
        let mut named: Vec<OsString> = Vec::new();
        for port in ports {
            named.extend([option.into(), format!("{scheme}://{}:{port}", self.address).into()]);
        }
        if self.is_secured {
            for (option, file) in [
                ("--etcd-ca-cert-file", "ca.crt"),
                ("--etcd-cert-file", "client.crt"),
                ("--etcd-key-file", "client.key"),
                ("--etcd-password-file", "password"),
            ] {
                named.extend([option.into(), self.directory.join(file).into()]);
            }
            named.extend(["--etcd-username".into(), AGENT.0.into()]);
        }
        named
    }

    /// etcd's own proxy before it, on the port 2390 of its address, to be started.
    ///
    /// # Errors
    /// etcd is not built.
    pub fn proxy(&self, namespace: &NetNs) -> Result<Command> {
        let mut command = namespace.command(&binaries::kubernetes("etcd")?)?;
        command.args(["grpc-proxy", "start", &format!("--endpoints=http://127.0.0.1:{OWN}")]);
        command.arg(format!("--listen-addr={}:2390", self.address));
        Ok(command)
    }

    /// Its processes.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.children.iter().flatten().map(Child::id)
    }

    /// Puts a resource of Calico's there: `tiers/NAME`, `networkpolicies/NAMESPACE/NAME`.
    ///
    /// # Errors
    /// etcd refuses.
    pub fn put(&self, namespace: &NetNs, name: &str, object: &Value) -> Result<()> {
        self.put_text(namespace, name, &object.to_string())
    }

    /// Puts something there that need not be an object.
    ///
    /// # Errors
    /// etcd refuses.
    pub fn put_text(&self, namespace: &NetNs, name: &str, text: &str) -> Result<()> {
        let key = STANDARD.encode(format!("{RESOURCES}{name}"));
        self.post(namespace, "/v3/kv/put", &json!({ "key": key, "value": STANDARD.encode(text) })).map(drop)
    }

    /// Removes one.
    ///
    /// # Errors
    /// etcd refuses.
    pub fn remove(&self, namespace: &NetNs, name: &str) -> Result<()> {
        let key = STANDARD.encode(format!("{RESOURCES}{name}"));
        self.post(namespace, "/v3/kv/deleterange", &json!({ "key": key })).map(drop)
    }

    /// Removes all keys that begin so.
    ///
    /// # Errors
    /// etcd refuses.
    pub fn clear(&self, namespace: &NetNs, prefix: &str) -> Result<()> {
        let question = json!({ "key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end_of(prefix)?) });
        self.post(namespace, "/v3/kv/deleterange", &question).map(drop)
    }

    /// All keys that begin so, each with what stands there.
    ///
    /// # Errors
    /// etcd refuses, or there stands no JSON.
    pub fn all(&self, namespace: &NetNs, prefix: &str) -> Result<Vec<(String, Value)>> {
        let question = json!({ "key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end_of(prefix)?) });
        let answer = self.post(namespace, "/v3/kv/range", &question)?;
        let kvs = answer["kvs"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| Ok::<_, anyhow::Error>(STANDARD.decode(value.as_str().context("text")?)?);
        let read =
            |kv: &Value| Ok((String::from_utf8(text(&kv["key"])?)?, serde_json::from_slice(&text(&kv["value"])?)?));
        kvs.iter().map(read).collect()
    }

    /// Forgets all revisions but the newest.
    ///
    /// # Errors
    /// etcd refuses.
    pub fn compact(&self, namespace: &NetNs) -> Result<()> {
        let status = self.post(namespace, "/v3/kv/range", &json!({ "key": STANDARD.encode("a") }))?;
        let revision = status["header"]["revision"].clone();
        self.post(namespace, "/v3/kv/compaction", &json!({ "revision": revision, "physical": true })).map(drop)
    }

    /// One question on the loopback, to the first member that answers.
    fn post(&self, namespace: &NetNs, path: &str, question: &Value) -> Result<Value> {
        let mut last = Err(anyhow!("etcd does not run"));
        for member in (0..self.children.len()).filter(|member| self.children[*member].is_some()) {
            last = self.post_to(member, namespace, path, question);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn post_to(&self, member: usize, namespace: &NetNs, path: &str, question: &Value) -> Result<Value> {
        let body = question.to_string();
        let token = self.token.as_ref().map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
        // An answer of HTTP/1.0 is what comes until the end.
        let request =
            format!("POST {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n{token}Content-Length: {}\r\n\r\n{body}", body.len());
        let text = namespace.inside(|| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port(OWN, member))).context("reaching etcd")?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(request.as_bytes()).context("asking etcd")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).context("hearing etcd")?;
            Ok(text)
        })?;
        let (head, body) = text.split_once("\r\n\r\n").context("an answer of HTTP")?;
        ensure!(head.lines().next().is_some_and(|line| line.contains(" 200 ")), "etcd on {path}: {text}");
        serde_json::from_str(body).with_context(|| format!("etcd on {path}: {body}"))
    }

    /// Certificates of one authority.
    fn sign(&self) -> Result<()> {
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        let made = |more: &[&str]| openssl(&self.directory, &[&["req"], &curve[..], more].concat());
        made(&["-x509", "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.crt"])?;
        let name = format!("subjectAltName=IP:{}", self.address);
        for (who, extension) in [("server", name.as_str()), ("client", "extendedKeyUsage=clientAuth")] {
            let (key, certificate, subject) = (format!("{who}.key"), format!("{who}.crt"), format!("/CN={who}"));
            made(&[
                "-x509",
                "-CA",
                "ca.crt",
                "-CAkey",
                "ca.key",
                "-subj",
                &subject,
                "-addext",
                extension,
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-keyout",
                &key,
                "-out",
                &certificate,
            ])?;
        }
        fs::write(self.directory.join("password"), AGENT.1).context("writing a password")
    }

    /// From now on who asks has to say who he is; agents may read and write what is Calico's, and ours.
    fn ask_for_names(&mut self, namespace: &NetNs) -> Result<()> {
        for (name, password) in [ROOT, AGENT] {
            self.post(namespace, "/v3/auth/user/add", &json!({ "name": name, "password": password }))?;
            self.post(namespace, "/v3/auth/role/add", &json!({ "name": name }))?;
            self.post(namespace, "/v3/auth/user/grant", &json!({ "user": name, "role": name }))?;
        }
        for (from, to) in [("/calico/", "/calico0"), ("/tortie/", "/tortie0")] {
            let permission =
                json!({ "permType": "READWRITE", "key": STANDARD.encode(from), "range_end": STANDARD.encode(to) });
            self.post(namespace, "/v3/auth/role/grant", &json!({ "name": AGENT.0, "perm": permission }))?;
        }
        self.post(namespace, "/v3/auth/enable", &json!({}))?;
        self.log_in(namespace)
    }

    fn log_in(&mut self, namespace: &NetNs) -> Result<()> {
        let who = json!({ "name": ROOT.0, "password": ROOT.1 });
        let answer = self.post(namespace, "/v3/auth/authenticate", &who)?;
        self.token = Some(answer["token"].as_str().context("a token")?.to_owned());
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // Already ended is ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn end_of(prefix: &str) -> Result<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().context("a prefix")? += 1;
    Ok(end)
}

fn port(first: u16, member: usize) -> u16 {
    first + NEXT * u16::try_from(member).unwrap_or(0)
}
