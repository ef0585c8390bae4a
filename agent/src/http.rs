//! The little HTTP that health and metrics need: one page a connection, one connection at a time.
//! In: an address and who answers. Out: his answers, as HTTP.
//! Invariant: a connection ends within [`PATIENCE`], however slow its other end.
//! Never: reads a body; keeps a connection.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// To read a request and write its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a connection that could not be taken: whatever ran out may come back.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest request head that is read.
const HEAD_MAX: usize = 8 << 10;

/// What was asked for.
#[derive(Debug)]
pub struct Request {
    /// Its path, without a query.
    pub path: String,
    /// The head's lines.
    head: String,
}

impl Request {
    /// Whether a header has this in its value.
    pub fn says(&self, header: &str, part: &str) -> bool {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(name, _)| name.eq_ignore_ascii_case(header)).any(|(_, value)| value.contains(part))
    }
}

/// The answer.
#[derive(Debug)]
pub struct Page {
    /// Such as `200 OK`.
    pub status: &'static str,
    /// Its `content-type`.
    pub kind: &'static str,
    /// The text.
    pub text: String,
}

impl Page {
    /// A line of plain text.
    pub fn line(status: &'static str, text: &str) -> Self {
        Self { status, kind: "text/plain", text: format!("{text}\n") }
    }
}

/// Answers at `address` from now on; says where, for port 0.
pub fn serve(
    name: &str,
    address: SocketAddr,
    answer: impl Fn(&Request) -> Page + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    let what = name.to_owned();
    let run = move || {
        for stream in listener.incoming() {
            match stream.map(|stream| converse(stream, &answer)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("{what}: {error}"),
                Err(error) => {
                    tracing::warn!("{what}: {error}");
                    thread::sleep(PAUSE);
                }
            }
        }
    };
    thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(run)?;
    Ok(bound)
}

fn converse(mut stream: TcpStream, answer: &impl Fn(&Request) -> Page) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let page = match read_head(&mut stream, end)? {
        Some(head) => match path_of(&head) {
            Some(path) => answer(&Request { path, head }),
            None => Page::line("405 Method Not Allowed", "only GET"),
        },
        None => Page::line("431 Request Header Fields Too Large", "too long"),
    };
    let Page { status, kind, text } = page;
    let length = text.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close");
    write(&mut stream, format!("{head}\r\n\r\n{text}").as_bytes(), end)
}

/// `None`: longer than any that is answered.
fn read_head(stream: &mut TcpStream, end: Instant) -> io::Result<Option<String>> {
    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        stream.set_read_timeout(Some(left(end)?))?;
        let read = stream.read(&mut piece)?;
        head.extend_from_slice(&piece[..read]);
        if read == 0 || head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if head.len() > HEAD_MAX {
            return Ok(None);
        }
    }
}

fn write(stream: &mut TcpStream, mut bytes: &[u8], end: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(end)?))?;
        match stream.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn path_of(head: &str) -> Option<String> {
    let mut words = head.lines().next()?.split_whitespace();
    let (method, target) = (words.next()?, words.next()?);
    (method == "GET").then(|| target.split('?').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn echo() -> SocketAddr {
        let page = |request: &Request| {
            let open = request.says("accept", "openmetrics");
            Page::line("200 OK", &format!("{} {open}", request.path))
        };
        serve("test", ([127, 0, 0, 1], 0).into(), page).expect("a free port")
    }

    #[test]
    fn a_page_is_told_by_its_path_and_the_header_that_matters() {
        let address = echo();
        let answer = ask(address, "GET /a?b=c HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n/a true\n"), "{answer}");
        assert!(ask(address, "GET /a HTTP/1.1\r\n\r\n").ends_with("/a false\n"));
        assert!(ask(address, "POST /a HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    }

    #[test]
    fn a_request_without_end_is_cut_and_the_next_one_is_answered() {
        let address = echo();
        let mut endless = TcpStream::connect(address).expect("connected");
        let mut answer = String::new();
        let line = "x: ".to_owned() + &"y".repeat(HEAD_MAX) + "\r\n";
        endless.write_all(format!("GET / HTTP/1.1\r\n{line}").as_bytes()).expect("sent");
        // It may be cut before all of it is read.
        let _reset = endless.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        let _silent = TcpStream::connect(address).expect("connected");
        assert!(ask(address, "GET /next HTTP/1.1\r\n\r\n").ends_with("/next false\n"));
    }
}
