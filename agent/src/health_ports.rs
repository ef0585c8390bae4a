//! `healthCheckNodePort`: whether this node has backends of a service, as its load balancer asks.
//! In: what each port shall say, from the owner; connections from anywhere. Out: 200 or 503, and a few lines of JSON.
//! Invariant: one thread for all ports; a connection ends within [`PATIENCE`], and the oldest where there are too many.
//! Never: reads a body; waits for the owner; ends because a port is taken.

use crate::health::Health;
use model::ServiceId;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// To send a request's head.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections at one moment.
const CONVERSATIONS: usize = 256;
/// The largest head that is read.
const HEAD_MAX: usize = 8 << 10;
/// Connections that wait to be taken.
const BACKLOG: i32 = 128;
/// After a failure to wait, before the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// What a port says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Of which service.
    pub service: ServiceId,
    /// Ready endpoints of this node.
    pub local: usize,
}

/// The ports; the owner's side.
#[derive(Debug, Default)]
pub struct HealthPorts {
    shared: Option<Arc<Shared>>,
    failed: BTreeMap<(SocketAddr, ServiceId), String>,
}

#[derive(Debug)]
struct Shared {
    ports: Mutex<BTreeMap<SocketAddr, (Arc<TcpListener>, Said)>>,
    /// Another set of ports is to be listened at.
    wake: OwnedFd,
    health: Health,
}

impl Shared {
    fn ports(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, (Arc<TcpListener>, Said)>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HealthPorts {
    /// Ports that say, too, whether this agent is ready.
    pub fn new(health: Health) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { ports: Mutex::default(), wake, health });
        let served = Arc::clone(&shared);
        let run = move || serve(&served);
        thread::Builder::new().name("health-ports".into()).stack_size(256 << 10).spawn(run)?;
        Ok(Self { shared: Some(shared), failed: BTreeMap::new() })
    }

    /// From now on these ports say this; of two services at one port the first has it. A port that cannot be listened at is
    /// tried again by the next call.
    pub fn want(&mut self, all: Vec<(SocketAddr, Said)>) {
        let Some(shared) = &self.shared else { return };
        self.failed.clear();
        let mut wanted: BTreeMap<SocketAddr, Said> = BTreeMap::new();
        for (at, said) in all {
            match wanted.get(&at) {
                None => drop(wanted.insert(at, said)),
                Some(first) => drop(self.failed.insert((at, said.service), format!("it is {}'s", first.service))),
            }
        }
        let mut ports = shared.ports();
        let before = ports.len();
        ports.retain(|at, _| wanted.contains_key(at));
        let mut moved = ports.len() != before;
        for (at, said) in wanted {
            if let Some((_, own)) = ports.get_mut(&at) {
                *own = said;
                continue;
            }
            match listen(at) {
                Ok(listener) => {
                    ports.insert(at, (Arc::new(listener), said));
                    moved = true;
                }
                Err(error) => drop(self.failed.insert((at, said.service), error.to_string())),
            }
        }
        drop(ports);
        if moved {
            // It is full only when the thread has yet to look.
            let _full = rustix::io::write(&shared.wake, &1u64.to_ne_bytes());
        }
    }

    /// What cannot be listened at, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&ServiceId, String)> {
        self.failed.iter().map(|((at, service), why)| (service, format!("{at}: {why}")))
    }
}

/// A port of IPv6 alone: one of IPv4 stands beside it.
fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &at)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A connection of which the head is not read yet.
struct Conversation {
    stream: TcpStream,
    port: SocketAddr,
    head: Vec<u8>,
    end: Instant,
}

fn serve(shared: &Shared) {
    let mut open = VecDeque::new();
    loop {
        let listeners: Vec<_> = shared.ports().iter().map(|(at, (own, _))| (*at, Arc::clone(own))).collect();
        if let Err(error) = turn(shared, &listeners, &mut open) {
            tracing::warn!("health checks of services: {error}");
            thread::sleep(PAUSE);
        }
    }
}

/// Waits for something, and does it.
fn turn(
    shared: &Shared,
    listeners: &[(SocketAddr, Arc<TcpListener>)],
    open: &mut VecDeque<Conversation>,
) -> io::Result<()> {
    let mut waits = vec![PollFd::new(&shared.wake, PollFlags::IN)];
    waits.extend(listeners.iter().map(|(_, listener)| PollFd::new(listener, PollFlags::IN)));
    waits.extend(open.iter().map(|each| PollFd::new(&each.stream, PollFlags::IN)));
    let left = open.front().map(|first| first.end.saturating_duration_since(Instant::now()));
    let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    match poll(&mut waits, left.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let ready: Vec<bool> = waits.iter().map(|wait| !wait.revents().is_empty()).collect();
    drop(waits);
    let [woken, ready @ ..] = &ready[..] else { return Ok(()) };
    if *woken {
        let _none = rustix::io::read(&shared.wake, &mut [0; 8]);
    }
    let (at_listeners, at_open) = ready.split_at(listeners.len());
    let mut at_open = at_open.iter();
    let now = Instant::now();
    open.retain_mut(|each| {
        let is_ready = at_open.next().is_some_and(|ready| *ready);
        if is_ready { each.goes_on(shared) } else { each.end > now }
    });
    for ((port, listener), _) in listeners.iter().zip(at_listeners).filter(|(_, ready)| **ready) {
        accept(*port, listener, open);
    }
    Ok(())
}

/// Takes in who waits; the oldest conversations make room.
fn accept(port: SocketAddr, listener: &TcpListener, open: &mut VecDeque<Conversation>) {
    while let Ok((stream, _)) = listener.accept() {
        if stream.set_nonblocking(true).is_err() {
            continue;
        }
        if open.len() >= CONVERSATIONS {
            open.pop_front();
        }
        open.push_back(Conversation { stream, port, head: Vec::new(), end: Instant::now() + PATIENCE });
    }
}

impl Conversation {
    /// Reads on, and answers once the head is there. `false`: it is over.
    fn goes_on(&mut self, shared: &Shared) -> bool {
        let mut piece = [0; 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(read) => self.head.extend_from_slice(&piece[..read]),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock && self.end > Instant::now(),
        }
        if self.head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            self.answer(shared);
            return false;
        }
        self.head.len() <= HEAD_MAX && self.end > Instant::now()
    }

    fn answer(&mut self, shared: &Shared) {
        let Some(said) = shared.ports().get(&self.port).map(|(_, said)| said.clone()) else { return };
        let is_healthy = shared.health.is_ready();
        let text = page(&said, is_healthy, self.head.starts_with(b"HEAD "));
        // It is shorter than what a fresh connection takes at once.
        if let Err(error) = self.stream.write_all(text.as_bytes()) {
            tracing::debug!(service = %said.service, "health check: {error}");
        }
    }
}

/// As kube-proxy's (pkg/proxy/healthcheck): fields, headers and status codes are what load balancers know.
fn page(Said { service, local }: &Said, is_healthy: bool, head_only: bool) -> String {
    let status = if *local > 0 && is_healthy { "200 OK" } else { "503 Service Unavailable" };
    let text = json!({
        "service": { "namespace": service.namespace.to_string(), "name": service.name },
        "localEndpoints": local,
        "serviceProxyHealthy": is_healthy,
    });
    let text = format!("{text:#}\n");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {local}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    if head_only { head } else { head + &text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// A port that nobody has at this moment.
    fn free(address: &str) -> SocketAddr {
        let found = TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr());
        found.expect("a free port")
    }

    fn said(name: &str, local: usize) -> Said {
        Said { service: ServiceId { namespace: "shop".into(), name: name.into() }, local }
    }

    #[test]
    fn a_port_says_how_many_backends_are_here_and_whether_the_agent_is_ready() {
        let health = Health::default();
        let mut ports = HealthPorts::new(health.clone()).expect("a thread");
        let (at, v6) = (free("127.0.0.1"), free("::1"));
        ports.want([(at, said("web", 2)), (v6, said("web", 0))].into());
        assert_eq!(ports.failed().count(), 0);
        assert!(ask(at, "GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"), "the agent is not ready");
        health.beat(true);
        let answer = ask(at, "GET /any HTTP/1.1\r\nHost: a\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"), "{answer}");
        assert!(head.contains("X-Load-Balancing-Endpoint-Weight: 2\r\n"), "{answer}");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let wanted =
            json!({"service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true});
        assert_eq!(body, wanted);
        assert!(ask(at, "HEAD / HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        assert!(ask(v6, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"), "nobody of that family");
        ports.want([(at, said("web", 0))].into());
        assert!(ask(at, "GET / HTTP/1.1\r\n\r\n").contains("\"localEndpoints\": 0"));
    }

    #[test]
    fn a_port_that_is_taken_is_named_and_served_once_it_is_free() {
        let health = Health::default();
        health.beat(true);
        let mut ports = HealthPorts::new(health).expect("a thread");
        let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = holder.local_addr().expect("its address");
        ports.want([(at, said("web", 1)), (at, said("other", 1))].into());
        let failed: Vec<_> = ports.failed().map(|(service, why)| format!("{service} {why}")).collect();
        assert!(failed.len() == 2 && failed[0] == format!("shop/other {at}: it is shop/web's"), "{failed:?}");
        assert!(failed[1].starts_with(&format!("shop/web {at}: ")), "{failed:?}");
        drop(holder);
        ports.want([(at, said("web", 1))].into());
        assert_eq!(ports.failed().count(), 0);
        assert!(ask(at, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn who_says_nothing_keeps_nobody_from_his_answer() {
        let health = Health::default();
        health.beat(true);
        let mut ports = HealthPorts::new(health).expect("a thread");
        let at = free("127.0.0.1");
        ports.want([(at, said("web", 1))].into());
        let _silent: Vec<_> = (0..CONVERSATIONS + 10).map(|_| TcpStream::connect(at).expect("connected")).collect();
        assert!(ask(at, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
        let endless = "x".repeat(2 * HEAD_MAX);
        let mut stream = TcpStream::connect(at).expect("connected");
        let _cut = stream.write_all(endless.as_bytes());
        assert!(ask(at, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    }
}
