//! The socket: one request a connection, from root only.
//! In: u32 length and JSON. Out: the owner's reply in the same form.
//! Invariant: every connection ends, within its deadline; a socket that somebody answers on is never taken over.
//! Never: decides; everything goes to the owner.

use crate::{
    metrics::Metrics,
    owner::{Ask, Event},
};
use cni::{
    client::frame,
    protocol::{Fault, MESSAGE_MAX, Operation, Reply, Request},
};
use std::{
    fs, io,
    io::{Read, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Requests are small; only answers may grow towards [`MESSAGE_MAX`].
const REQUEST_MAX: u32 = 1 << 20;
/// To send a request that was begun, or take an answer.
const TRANSFER: Duration = Duration::from_secs(5);
/// Longest wait for the owner, whatever the asker is ready to wait.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections at a time; more wait, unaccepted, until one of these has ended.
const CONNECTIONS: usize = 256;

/// How many connections are open.
#[derive(Default)]
struct Open(Mutex<usize>, Condvar);

impl Open {
    /// Counts one more, once there is room for it.
    fn enter(self: &Arc<Self>) -> Place {
        let count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |count: &mut usize| *count >= CONNECTIONS;
        *self.1.wait_while(count, is_full).unwrap_or_else(PoisonError::into_inner) += 1;
        Place(Arc::clone(self))
    }
}

/// A connection that is counted, however it ends.
struct Place(Arc<Open>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.1.notify_one();
    }
}

/// The agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("{0}: another agent answers on this socket; stop it, or give this one its own --socket")]
    InUse(PathBuf),
    /// Not a socket.
    #[error("{0}: is there and is no socket; remove it, or give another --socket")]
    NoSocket(PathBuf),
    /// The file system refused.
    #[error("{path}: cannot listen: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Listens at `path` and passes every request to the owner.
pub fn listen(path: &Path, owner: SyncSender<Event>, metrics: Metrics) -> Result<(), ListenError> {
    let io_error = |source| ListenError::Io { path: path.to_owned(), source };
    clear(path)?;
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(io_error)?;
    }
    let listener = UnixListener::bind(path).map_err(io_error)?;
    // Until here the peer's uid is what keeps others out; it is asked at every connection anyway.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io_error)?;
    let run = move || accept(&listener, &owner, &metrics);
    thread::Builder::new().name("serve".into()).spawn(run).map(drop).map_err(io_error)
}

/// Removes the socket of an agent that is gone.
pub fn clear(path: &Path) -> Result<(), ListenError> {
    let io_error = |source| ListenError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(io_error),
        Err(error) => Err(io_error(error)),
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
    }
}

fn accept(listener: &UnixListener, owner: &SyncSender<Event>, metrics: &Metrics) {
    let open = Arc::new(Open::default());
    loop {
        // A crowd waits in the kernel's queue, as long as its deadlines let it: each of these ends within its own.
        let place = open.enter();
        let stream = listener.accept().map(|(stream, _)| stream);
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("socket: {error}");
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let (owner, metrics) = (owner.clone(), metrics.clone());
        let serve = move || {
            if let Err(error) = serve(stream, &owner, &metrics) {
                tracing::debug!("socket: {error}");
            }
            drop(place);
        };
        if let Err(error) = thread::Builder::new().name("request".into()).stack_size(256 << 10).spawn(serve) {
            tracing::warn!("socket: no thread for a request: {error}");
        }
    }
}

fn serve(mut stream: UnixStream, owner: &SyncSender<Event>, metrics: &Metrics) -> io::Result<()> {
    let mut prepared = None;
    let reply = match receive(&mut stream)? {
        Ok(request) => {
            let (operation, begun) = (request.operation.name(), Instant::now());
            let deadline = begun + patience(&request);
            if let Operation::Prepare(prepare) = &request.operation {
                prepared = Some((prepare.id.clone(), deadline));
            }
            let reply = ask(request, deadline, owner);
            metrics.answered(operation, &reply, begun.elapsed());
            reply
        }
        Err(fault) => Err(fault),
    };
    let body = serde_json::to_vec(&reply)?;
    let message = frame(&body).or_else(|error| {
        let reply: Reply = Err(fault(100, format!("the answer is too large: {error}")));
        frame(&serde_json::to_vec(&reply).unwrap_or_default())
    });
    stream.set_write_timeout(Some(TRANSFER))?;
    let written = stream.write_all(&message.map_err(io::Error::other)?);
    // A plugin that was killed before it had its answer: its DEL may have come before.
    if let (Err(_), Some((id, deadline))) = (&written, prepared) {
        let _ = owner.send(Event::Gone(id, deadline));
    }
    written
}

fn patience(request: &Request) -> Duration {
    Duration::from_millis(request.deadline_ms).min(PATIENCE)
}

/// Reads and checks a request; the outer error is one that nobody can be told.
fn receive(stream: &mut UnixStream) -> io::Result<Result<Request, Fault>> {
    let uid = netlink::peer_uid(stream)?;
    if uid != 0 {
        return Ok(Err(fault(100, format!("uid {uid} may not ask the agent: run as root"))));
    }
    let end = Instant::now() + TRANSFER;
    let mut length = [0; 4];
    read_until(stream, &mut length, end)?;
    let length = u32::from_be_bytes(length);
    if length > REQUEST_MAX.min(MESSAGE_MAX) {
        return Ok(Err(fault(100, format!("a request of {length} bytes is above the limit of {REQUEST_MAX}"))));
    }
    let mut body = vec![0; length as usize];
    read_until(stream, &mut body, end)?;
    Ok(Request::read(&body))
}

fn read_until(stream: &mut UnixStream, mut buffer: &mut [u8], end: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => buffer = &mut buffer[read..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ask(request: Request, deadline: Instant, owner: &SyncSender<Event>) -> Reply {
    let patience = patience(&request);
    let (reply, answer) = sync_channel(1);
    let ask = Ask { operation: request.operation, deadline, reply };
    if owner.send(Event::Ask(Box::new(ask))).is_err() {
        return Err(fault(11, "the agent is stopping; try again"));
    }
    match answer.recv_timeout(patience) {
        Ok(reply) => reply,
        Err(RecvTimeoutError::Timeout) => Err(fault(11, format!("not done within {patience:?}; try again"))),
        Err(RecvTimeoutError::Disconnected) => Err(fault(11, "the agent is stopping; try again")),
    }
}

fn fault(code: u32, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into(), details: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni::{
        client::{CallError, ask},
        protocol::{Answer, Query},
    };

    const LIMIT: Duration = Duration::from_secs(10);

    fn show() -> Operation {
        Operation::Query(Query::Show { table: "status".into() })
    }

    fn listening() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("run/tortie.sock");
        let (owner, events) = sync_channel(8);
        listen(&path, owner, Metrics::default()).expect("listening");
        thread::spawn(move || {
            for event in events {
                if let Event::Ask(ask) = event {
                    let _ = ask.reply.send(Ok(Answer::Done));
                }
            }
        });
        (dir, path)
    }

    #[test]
    fn a_request_gets_the_owners_reply_and_the_socket_is_roots_alone() {
        let (_dir, path) = listening();
        assert_eq!(ask(&path, LIMIT, show()).expect("an answer"), Answer::Done);
        let mode = fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_request_of_another_version_or_of_no_form_is_refused_with_a_reason() {
        let (_dir, path) = listening();
        for (body, part) in [(r#"{"version":99,"new":1}"#, "protocol 99"), ("{", "cannot be read")] {
            let mut stream = UnixStream::connect(&path).expect("connected");
            stream.write_all(&frame(body.as_bytes()).expect("short")).expect("sent");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("an answer");
            let reply: Reply = serde_json::from_slice(&answer[4..]).expect("a reply");
            assert!(reply.is_err_and(|fault| fault.message.contains(part)));
        }
    }

    #[test]
    fn a_request_above_the_limit_is_refused_before_it_is_read() {
        let (_dir, path) = listening();
        let mut stream = UnixStream::connect(&path).expect("connected");
        stream.write_all(&u32::MAX.to_be_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        assert!(String::from_utf8_lossy(&answer).contains("above the limit"));
    }

    #[test]
    fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
        let (dir, path) = listening();
        let (owner, _events) = sync_channel(1);
        assert!(matches!(listen(&path, owner.clone(), Metrics::default()), Err(ListenError::InUse(_))));
        let stale = dir.path().join("stale.sock");
        drop(UnixListener::bind(&stale).expect("bound"));
        listen(&stale, owner.clone(), Metrics::default()).expect("the stale socket is replaced");
        let file = dir.path().join("file");
        fs::write(&file, "mine").expect("written");
        assert!(matches!(listen(&file, owner, Metrics::default()), Err(ListenError::NoSocket(_))));
        assert!(file.exists());
    }

    #[test]
    fn who_comes_when_all_places_are_taken_waits_and_is_answered() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("tortie.sock");
        let (owner, events) = sync_channel(8);
        listen(&path, owner, Metrics::default()).expect("listening");
        // Nobody is answered before all places are taken.
        thread::spawn(move || {
            let asks = || events.iter().filter_map(|event| if let Event::Ask(ask) = event { Some(ask) } else { None });
            let first: Vec<_> = asks().take(CONNECTIONS).collect();
            first.into_iter().chain(asks()).for_each(|ask| drop(ask.reply.send(Ok(Answer::Done))));
        });
        thread::scope(|scope| {
            let askers: Vec<_> = (0..CONNECTIONS + 40).map(|_| scope.spawn(|| ask(&path, LIMIT, show()))).collect();
            for asker in askers {
                assert_eq!(asker.join().expect("no panic").expect("an answer"), Answer::Done);
            }
        });
    }

    #[test]
    fn an_owner_that_is_gone_means_try_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("tortie.sock");
        let (owner, events) = sync_channel(1);
        drop(events);
        listen(&path, owner, Metrics::default()).expect("listening");
        let error = ask(&path, LIMIT, show()).expect_err("nobody answers");
        assert!(matches!(error, CallError::Refused(fault) if fault.code == 11));
    }
}
