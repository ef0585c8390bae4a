//! Health over HTTP: `/liveness` and `/readiness`.
//! In: the owner's heartbeat. Out: 200 or 503, and one word.
//! Invariant: alive means that the owner's loop went round within the last minute.
//! Never: waits for the owner.

use crate::http::{self, Page};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Longer than any request an owner may be busy with.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Beat {
    at: Instant,
    ready: bool,
}

/// The owner's pulse.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<Beat>>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Beat { at: Instant::now(), ready: false })))
    }
}

impl Health {
    /// The owner's loop goes round.
    pub fn beat(&self, ready: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Beat { at: Instant::now(), ready };
    }

    /// Alive, and what the cluster wants is in force.
    pub fn is_ready(&self) -> bool {
        self.state("/readiness").0 == "200 OK"
    }

    /// Answers at `address` from now on; says where, for port 0.
    pub fn serve(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let health = self.clone();
        http::serve("health", address, move |request| {
            let (status, word) = health.state(&request.path);
            Page::line(status, word)
        })
    }

    fn state(&self, path: &str) -> (&'static str, &'static str) {
        let beat = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = beat.at.elapsed() < SILENCE;
        match path {
            "/liveness" if alive => ("200 OK", "alive"),
            "/readiness" if alive && beat.ready => ("200 OK", "ready"),
            "/liveness" | "/readiness" => ("503 Service Unavailable", "not yet"),
            _ => ("404 Not Found", "there are /liveness and /readiness"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn an_agent_is_alive_before_it_is_ready() {
        let health = Health::default();
        let address = health.serve(([127, 0, 0, 1], 0).into()).expect("a free port");
        assert_eq!(get(address, "/liveness"), "HTTP/1.1 200 OK");
        assert_eq!(get(address, "/readiness"), "HTTP/1.1 503 Service Unavailable");
        health.beat(true);
        assert_eq!(get(address, "/readiness"), "HTTP/1.1 200 OK");
        assert_eq!(get(address, "/metrics"), "HTTP/1.1 404 Not Found");
    }
}
