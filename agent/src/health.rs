//! Health over HTTP: `/liveness` and `/readiness`.
//! In: the owner's heartbeat. Out: 200 or 503, and one word.
//! Invariant: alive means that the owner's loop went round within the last minute.
//! Never: more than one connection at a time; reads a request beyond its first line.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Longer than any request an owner may be busy with.
const SILENCE: Duration = Duration::from_secs(60);
const TRANSFER: Duration = Duration::from_secs(2);
const LINE_MAX: u64 = 1024;

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

    /// Answers at `address` from now on; says where, for port 0.
    pub fn serve(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address)?;
        let bound = listener.local_addr()?;
        let health = self.clone();
        let run = move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = health.answer(stream) {
                    tracing::debug!("health: {error}");
                }
            }
        };
        thread::Builder::new().name("health".into()).stack_size(128 << 10).spawn(run)?;
        Ok(bound)
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(TRANSFER))?;
        stream.set_write_timeout(Some(TRANSFER))?;
        let mut line = String::new();
        BufReader::new((&stream).take(LINE_MAX)).read_line(&mut line)?;
        let (status, word) = self.state(line.split_whitespace().nth(1).unwrap_or_default());
        let length = word.len() + 1;
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close");
        stream.write_all(format!("{head}\r\n\r\n{word}\n").as_bytes())
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

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(format!("GET {path} HTTP/1.1\r\n").as_bytes()).expect("sent");
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
