//! BIRD's control socket.
//! In: a command. Out: the lines of its answer.
//! Invariant: no answer is waited for longer than a few seconds.
//! Never: an answer in part: one that does not end is an error.

use bgp::answer;
use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// More than thousands of sessions say.
const ANSWER_MAX: u64 = 64 << 20;

/// A connection, greeted.
pub struct Control {
    reader: BufReader<UnixStream>,
    /// As BIRD greeted.
    pub version: Option<String>,
}

impl Control {
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut control = Self { reader: BufReader::new(stream), version: None };
        control.version = control.answer()?.iter().find_map(|line| answer::version(line));
        Ok(control)
    }

    pub fn ask(&mut self, command: &str) -> io::Result<Vec<String>> {
        self.reader.get_mut().write_all(format!("{command}\n").as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut limited = (&mut self.reader).take(ANSWER_MAX);
        loop {
            let mut line = String::new();
            if limited.read_line(&mut line)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "BIRD's answer has no end"));
            }
            let line = line.trim_end_matches(['\n', '\r']).to_owned();
            let is_last = answer::is_last(&line);
            lines.push(line);
            if is_last {
                return Ok(lines);
            }
        }
    }
}

/// What an answer refuses a command with (codes of 8000 and more).
pub fn refusal(lines: &[String]) -> Option<String> {
    let refused = lines.iter().find(|line| answer::code(line).is_some_and(|code| code >= 8000))?;
    Some(refused.get(5..).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_answer() {
        let lines = |text: &[&str]| text.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(refusal(&lines(&["0002-Reading configuration", "0003 Reconfigured"])), None);
        let refused = lines(&["0002-Reading configuration", "8002 bird.conf:3:4 syntax error"]);
        assert_eq!(refusal(&refused).as_deref(), Some("bird.conf:3:4 syntax error"));
    }
}
