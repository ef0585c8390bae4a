//! Small real servers in a pod: they greet with the pod's name and say everything back.
//! In: a namespace and ports. Out: listening sockets of both families, one thread each, until dropped.
//! Invariant: when `start` returns, every socket listens; when the value is dropped, every thread has ended.
//! Never: answers for a port it was not given.

use crate::{NetNs, raw};
use anyhow::{Context as _, Result};
use rustix::net::{Shutdown, shutdown};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How often a server without connections looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// What to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// An SCTP port, answered by hand: kernels without SCTP sockets still carry its packets.
    Sctp(u16),
}

/// Running servers.
#[derive(Debug, Default)]
pub struct Servers {
    stop: Arc<AtomicBool>,
    listeners: Vec<Arc<TcpListener>>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Starts one server a port; `name` is what each of them greets with.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(namespace: &NetNs, name: &str, ports: &[Listen]) -> Result<Self> {
        let mut servers = Self::default();
        for port in ports {
            match *port {
                Listen::Tcp(port) => servers.tcp(namespace, name, port)?,
                Listen::Udp(port) => servers.udp(namespace, name, port)?,
                Listen::Sctp(port) => servers.sctp(namespace, port)?,
            }
        }
        Ok(servers)
    }

    fn tcp(&mut self, namespace: &NetNs, name: &str, port: u16) -> Result<()> {
        let listener = namespace.inside(|| {
            // A wildcard socket of IPv6 serves IPv4 too.
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("listening on TCP {port}"))
        })?;
        let listener = Arc::new(listener);
        let (accepting, greeting) = (Arc::clone(&listener), format!("{name}\n"));
        self.listeners.push(listener);
        self.threads.push(thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let greeting = greeting.clone();
                thread::spawn(move || echo(stream, &greeting));
            }
        }));
        Ok(())
    }

    fn udp(&mut self, namespace: &NetNs, name: &str, port: u16) -> Result<()> {
        let socket = namespace.inside(|| {
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("listening on UDP {port}"))
        })?;
        socket.set_read_timeout(Some(LOOK)).context("bounding a UDP server's wait")?;
        let (stop, greeting) = (Arc::clone(&self.stop), format!("{name}\n"));
        self.threads.push(thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let answer = [greeting.as_bytes(), &buffer[..length]].concat();
                // A client that has gone is no fault of the server.
                let _ = socket.send_to(&answer, from);
            }
        }));
        Ok(())
    }

    fn sctp(&mut self, namespace: &NetNs, port: u16) -> Result<()> {
        for socket in
            namespace.inside(|| [true, false].into_iter().map(raw::sctp_socket).collect::<Result<Vec<_>>>())?
        {
            socket.set_timeout(LOOK)?;
            let stop = Arc::clone(&self.stop);
            self.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    raw::answer_init(&socket, port);
                }
            }));
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // Wakes `accept`; a socket that is already shut needs no waking.
            let _ = shutdown(listener.as_ref(), Shutdown::Read);
        }
        for thread in self.threads.drain(..) {
            // A server that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

/// Greets, then says everything back until the client closes.
pub fn echo(mut stream: TcpStream, greeting: &str) {
    let mut buffer = [0; 65536];
    // Errors of a connection end it: the client sees them from its side.
    if stream.set_nodelay(true).is_err() || stream.write_all(greeting.as_bytes()).is_err() {
        return;
    }
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
