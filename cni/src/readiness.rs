//! Readiness gates: who has to answer before a pod is attached (Calico: cni-plugin/pkg/plugin/plugin.go).
//! In: `readiness_gates` of the configuration. Out: all have answered well, or which has not, and why.
//! Invariant: a gate is waited for 30 seconds at most, and all of them no longer than the command has.
//! Never: reads more of an answer than its first line.

use crate::{
    deadline::Deadline,
    failure::{Code, Failure},
};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

/// So long one gate is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// More than any status line has.
const LINE_MAX: u64 = 1024;

/// Where a GET has to be answered with a status from 200 to 399.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// As it is written.
    url: String,
    /// Name or address, for an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// What is said of whom, in the request.
    authority: String,
    path: String,
}

impl Gate {
    /// Reads a URL.
    ///
    /// # Errors
    /// Code and reason: 2 where it is not asked by plain HTTP, 7 where it is no URL.
    pub(crate) fn of(url: &str) -> Result<Self, (Code, String)> {
        let unusable = |what: &str| (Code::CONFIGURATION, format!("readiness_gates: {url:?} {what}"));
        if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(unusable("has blanks or control characters"));
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(unusable("is not http://HOST[:PORT]/PATH"));
        };
        if scheme.eq_ignore_ascii_case("https") {
            let reason = format!(
                "readiness_gates: {url:?} is asked by TLS, which is not done here; name one that is asked by http"
            );
            return Err((Code::UNSUPPORTED, reason));
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(unusable("is not http://HOST[:PORT]/PATH"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = split(authority).ok_or_else(|| unusable("names no host, or a port that is none"))?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            url: url.to_owned(),
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            path: format!("{slash}{path}"),
        })
    }

    /// Asks once. A name may be looked up for longer than anybody waits, so a thread does it; it ends with the program.
    fn ask(&self, limit: Duration) -> Result<(), String> {
        let (sender, answer) = channel();
        let gate = self.clone();
        thread::spawn(move || drop(sender.send(gate.get(limit))));
        answer.recv_timeout(limit).unwrap_or_else(|_| Err(format!("no answer within {} ms", limit.as_millis())))
    }

    fn get(&self, limit: Duration) -> Result<(), String> {
        let mut stream = self.connect(limit)?;
        let Self { path, authority, .. } = self;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: tortie-cni\r\nConnection: close\r\n\r\n");
        let mut line = String::new();
        let asked = stream.set_read_timeout(Some(limit)).and_then(|()| stream.write_all(request.as_bytes()));
        let read = asked.and_then(|()| BufReader::new(stream.take(LINE_MAX)).read_line(&mut line));
        read.map_err(|error| error.to_string())?;
        match line.strip_prefix("HTTP/").and_then(|line| line.split(' ').nth(1)?.trim().parse::<u16>().ok()) {
            Some(200..=399) => Ok(()),
            Some(status) => Err(format!("it answers {status}")),
            None => Err("its answer is not HTTP".to_owned()),
        }
    }

    fn connect(&self, limit: Duration) -> Result<TcpStream, String> {
        let addresses = (&*self.host, self.port).to_socket_addrs().map_err(|error| error.to_string())?;
        let mut reason = "its name has no address".to_owned();
        for address in addresses {
            match TcpStream::connect_timeout(&address, limit) {
                Ok(stream) => return Ok(stream),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }

    fn await_open(&self, deadline: Deadline) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let left = deadline.left().unwrap_or_default().min(PATIENCE.saturating_sub(begun.elapsed()));
            let Err(reason) = self.ask(left.clamp(PAUSE, ANSWER)) else { return Ok(()) };
            let waited = begun.elapsed();
            if deadline.left().unwrap_or_default() <= PAUSE || waited + PAUSE >= PATIENCE {
                let message = format!(
                    "readiness gate {}: {reason}; no pod is attached until it answers a GET with 200 to 399",
                    self.url
                );
                return Err(Failure::new(Code::LATER, message));
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Returns once all gates have answered well, one after the other.
pub(crate) fn await_all(gates: &[Gate], deadline: Deadline) -> Result<(), Failure> {
    gates.iter().try_for_each(|gate| gate.await_open(deadline))
}

/// Host and port of `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn split(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some("80"))?),
        None => authority.split_once(':').unwrap_or((authority, "80")),
    };
    let is_host = !host.is_empty() && !host.contains(['@', '[', ']']);
    let port = port.parse().ok().filter(|port| *port > 0)?;
    is_host.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        net::TcpListener,
        sync::mpsc::Receiver,
    };

    /// Answers one question after the other with these texts. Gives where, and tells what was asked.
    fn server(answers: &[&str]) -> (String, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let answers: Vec<_> = answers.iter().map(ToString::to_string).collect();
        let (tell, asked) = channel();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a request");
                tell.send(line.trim_end().to_owned()).expect("somebody listens");
                stream.write_all(answer.as_bytes()).expect("answered");
            }
        });
        (address, asked)
    }

    fn awaited(url: &str, limit: Duration) -> Result<(), Failure> {
        await_all(&[Gate::of(url).expect("a gate")], Deadline::after(limit))
    }

    #[test]
    fn calc_19_a_gate_is_asked_again_until_it_answers_well() {
        let (address, asked) =
            server(&["HTTP/1.1 503 Not Yet\r\n\r\n", "who is there\r\n", "HTTP/1.0 302 Found\r\n\r\n"]);
        awaited(&format!("http://{address}/ready?deep=1#top"), Duration::from_secs(30)).expect("open");
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), ["GET /ready?deep=1 HTTP/1.1"; 3]);
    }

    #[test]
    fn calc_19_a_gate_that_stays_shut_is_named_with_its_answer_and_waited_for_no_longer_than_the_command_has() {
        let (address, asked) = server(&["HTTP/1.1 404 Not Found\r\n\r\n"]);
        let url = format!("http://{address}");
        let failure = awaited(&url, PAUSE).expect_err("shut");
        assert_eq!(failure.code, Code::LATER);
        assert!(failure.message.contains(&url) && failure.message.contains("404"), "{failure}");
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), ["GET / HTTP/1.1"]);
        // Nobody accepts there, so nobody answers.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", silent.local_addr().expect("bound"));
        assert!(awaited(&url, PAUSE).expect_err("silent").message.contains("no answer within"));
    }

    #[test]
    fn calc_19_a_gate_is_a_url_that_is_asked_by_http() {
        for (url, host, port, path) in [
            ("http://localhost:9099/readiness", "localhost", 9099, "/readiness"),
            ("HTTP://192.0.2.1", "192.0.2.1", 80, "/"),
            ("http://[fd00::1]:8080?x=/", "fd00::1", 8080, "/?x=/"),
            ("http://[fd00::1]/a", "fd00::1", 80, "/a"),
        ] {
            let gate = Gate::of(url).expect(url);
            assert_eq!((&*gate.host, gate.port, &*gate.path), (host, port, path), "{url}");
        }
        let wrong = [
            "",
            "localhost:9099",
            "http://",
            "http://:80/",
            "http://a:b/",
            "http://a:0",
            "http://u@a/",
            "ftp://a/",
            "http://a/ b",
            "http://a/\r\nX: y",
            "http://[fd00::1",
            "http://[fd00::1]x",
        ];
        for (url, code) in
            wrong.map(|url| (url, Code::CONFIGURATION)).into_iter().chain([("https://a/", Code::UNSUPPORTED)])
        {
            let (found, reason) = Gate::of(url).expect_err(url);
            assert_eq!(found, code, "{url}");
            assert!(reason.contains(&format!("{url:?}")), "{reason}");
        }
    }
}
