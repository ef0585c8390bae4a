//! Asks BIRD how it is, for those who are told of this node.
//! In: the folder of its files. Out: what it answers.
//! Invariant: a BIRD that does not even greet is none; one that greets and does not go on is an error.
//! Never: changes anything of it.

use super::{control::Control, files::Files};
use bgp::{Said, answer};
use std::{io, path::Path};

/// `None`: no BIRD answers. Routes may be many, and are asked only where they are wanted.
pub fn ask(folder: &Path, with_routes: bool) -> io::Result<Option<Said>> {
    let Ok(mut control) = Control::open(&Files::of(folder).socket) else { return Ok(None) };
    let daemon = answer::daemon(&control.ask("show status")?);
    let sessions = answer::sessions(&control.ask("show protocols all")?);
    let routes = if with_routes { answer::routes(&control.ask("show route")?) } else { Vec::new() };
    Ok(Some(Said { daemon, sessions, routes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::unix::net::UnixListener,
        thread,
    };

    /// Says this to each of these commands, in turn, after a greeting.
    fn bird(folder: &Path, answers: &'static [(&str, &str)]) {
        let listener = UnixListener::bind(Files::of(folder).socket).expect("bound");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let mut reader = BufReader::new(stream.try_clone().expect("the same"));
            writeln!(stream, "0001 BIRD 2.0.12 ready.").expect("written");
            for (command, answer) in answers {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a command");
                assert_eq!(line.trim(), *command);
                writeln!(stream, "{answer}").expect("written");
            }
        });
    }

    #[test]
    fn routes_are_asked_only_where_they_are_wanted() {
        let dir = tempfile::tempdir().expect("a directory");
        bird(
            dir.path(),
            &[("show status", "1000-BIRD 2.0.12\n0013 Daemon is up and running"), ("show protocols all", "0000 ")],
        );
        let said = ask(dir.path(), false).expect("it answers").expect("it is there");
        assert_eq!(said.daemon.version.as_deref(), Some("2.0.12"));
    }

    #[test]
    fn no_bird_is_no_error_and_one_that_ends_in_an_answer_is() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(ask(dir.path(), true).expect("nobody is there").is_none());
        bird(dir.path(), &[("show status", "1000-BIRD 2.0.12")]);
        ask(dir.path(), true).expect_err("it has not said all");
    }
}
