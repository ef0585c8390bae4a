//! Datagrams beside a real kube-proxy: flows that go on while it comes and while it goes.
//! In: two backends; clients in a pod, on the node and outside, each with a socket that keeps asking. Out: who answered each.
//! Invariant: a datagram is sent when the one before was answered, or is lost for good.
//! Never: hides a loss, or a change of backend.

use crate::{
    beside_kube_proxy::{DEFAULT_ROUTES, MODES, any_through_stack, by_both, externals, meets, served_by, shop, vips},
    story::{Story, story_on},
};
use anyhow::{Context as _, Result, ensure};
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tests::{NetNs, NodeSpec, Outcome, Probe::Udp, cgroup::Cgroup, kube_proxy::KubeProxy, probe, wait};

/// Pause between two datagrams of a client.
const BEAT: Duration = Duration::from_millis(20);
/// Clients of each door, so that both backends have some.
const CLIENTS: usize = 3;

/// What a client met.
#[derive(Debug, Default)]
struct Account {
    sent: u64,
    /// With the time of day when they were sent.
    lost: Vec<(u64, String)>,
    /// Who answered, one after the other.
    by: Vec<String>,
}

/// A client that keeps asking by one connected socket.
struct Client {
    door: String,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Account>>,
}

impl Client {
    fn start(door: String, from: &NetNs, to: SocketAddr) -> Result<Self> {
        let socket = from.inside(|| {
            let socket = probe::socket(to).context("binding a UDP socket")?;
            socket.connect(to).with_context(|| format!("connecting to {to}"))?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(wait::PATIENCE)).context("a socket option")?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut account = Account::default();
            while !until.load(Ordering::Relaxed) {
                account.sent += 1;
                account.ask(&socket)?;
                thread::sleep(BEAT);
            }
            Ok(account)
        });
        Ok(Self { door, stop, thread })
    }

    fn end(self) -> Result<(String, Account)> {
        self.stop.store(true, Ordering::Relaxed);
        let met = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((self.door.clone(), met.context(self.door)?))
    }
}

impl Account {
    fn ask(&mut self, socket: &UdpSocket) -> Result<()> {
        let word = self.sent.to_string();
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?;
        socket.send(word.as_bytes()).context("sending a datagram")?;
        let mut buffer = [0; 64];
        loop {
            let length = match socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    let (seconds, millis) = (at.as_secs() % 86_400, at.subsec_millis());
                    let [hours, minutes] = [seconds / 3600, seconds / 60 % 60];
                    self.lost.push((self.sent, format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)));
                    return Ok(());
                }
                Err(error) => return Err(error).with_context(|| format!("datagram {word}")),
            };
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let (who, said) = answer.split_once('\n').context("an answer without a name")?;
            if said != word {
                // One that was given up.
                continue;
            }
            if self.by.last().is_none_or(|last| last != who) {
                self.by.push(who.to_owned());
            }
            return Ok(());
        }
    }
}

/// Clients of every kind and family: a pod's, the node's own, from outside to node ports and to external addresses.
fn clients(s: &Story, cgroup: &Cgroup, externals: &[IpAddr], opened: &str) -> Result<Vec<Client>> {
    let (a, node, outside) = (s.pod("x/a")?.namespace(), s.node.namespace(), s.cluster.outside());
    let inside = vips().into_iter().flat_map(|vip| [("pod", a, vip, 53), ("node", node, vip, 53)]);
    let ports = s.node.addresses().into_iter().map(|own| ("node port", outside, own, 30053));
    let external = externals.iter().map(|external| ("external", outside, *external, 53));
    let mut clients = Vec::new();
    for (kind, from, at, port) in inside.chain(ports).chain(external) {
        cgroup.inside(|| meets(from, at, Udp(port), Outcome::Allowed))?;
        for _ in 0..CLIENTS {
            let (door, to) = (format!("{kind} {at}, opened {opened}"), SocketAddr::new(at, port));
            clients.push(cgroup.inside(|| Client::start(door, from, to))?);
        }
    }
    Ok(clients)
}

#[test]
fn datagrams_find_their_backend_over_both_switches_and_none_is_lost() -> Result<()> {
    for mode in MODES {
        let cgroup = Cgroup::create()?;
        story_on(NodeSpec::new(1).cgroup(Some(cgroup.path())), &["x/a", "x/b", "x/c"], |s| {
            s.node.namespace().ip(&DEFAULT_ROUTES)?;
            shop(s, &[s.pod("x/b")?.addresses(), s.pod("x/c")?.addresses()].concat())?;
            let externals = externals(s)?;
            served_by(s, "tortie (no rules")?;
            let mut all = clients(s, &cgroup, &externals, "by tortie")?;
            let proxy = KubeProxy::start(&s.cluster, &s.node, mode)?;
            served_by(s, "kube-proxy (kube-proxy's rules are there")?;
            wait::wait_until("flows go through the stack", wait::PATIENCE, || {
                by_both(s.pod("x/a")?.namespace(), Outcome::Allowed)?;
                any_through_stack(s)
            })?;
            all.extend(clients(s, &cgroup, &externals, "by kube-proxy")?);
            // Its rules stay: they are what translates its flows.
            drop(proxy);
            let mut arguments = s.node.agent.arguments().to_vec();
            arguments.extend(["--services", "tortie"].map(Into::into));
            s.node.agent.set_arguments(arguments);
            s.node.restart()?;
            served_by(s, "tortie (--services tortie, though")?;
            all.extend(clients(s, &cgroup, &externals, "by tortie again")?);
            let met = all.into_iter().map(Client::end).collect::<Result<Vec<_>>>()?;
            let wrong: Vec<_> = met
                .iter()
                .filter(|(door, account)| {
                    // What kube-proxy carried from outside has no entry here, and may go to another backend once.
                    let is_foreign = door.contains("opened by kube-proxy")
                        && ["node port", "external"].iter().any(|kind| door.starts_with(kind));
                    !account.lost.is_empty() || account.by.len() > 1 + usize::from(is_foreign)
                })
                .collect();
            ensure!(wrong.is_empty(), "{wrong:?}\n{}", s.node.show("drops")?);
            let backends = |name: &str| {
                met.iter().filter(|(_, account)| account.by.first().is_some_and(|by| by.contains(name))).count()
            };
            ensure!(backends("x/b") > 0 && backends("x/c") > 0, "one backend has all: {met:#?}");
            Ok(())
        })
        .with_context(|| format!("kube-proxy by {}", mode.as_str()))?;
    }
    Ok(())
}
