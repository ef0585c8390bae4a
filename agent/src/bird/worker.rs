//! The thread that keeps BIRD as it should be.
//! In: facts, when they change; BIRD's answers, every second. Out: BIRD told by `configure`, or started; what was seen.
//! Invariant: a BIRD that answers on our socket is never started again, whoever started it; one that ends is started after a rest
//! that doubles up to a minute.
//! Never: puts a configuration in force that BIRD has not said it would take.

use super::{
    Seen, Settings, Shared,
    control::{Control, refusal},
    files::Files,
    passwords,
    program::{Program, Trouble},
};
use crate::mailbox::Mailbox;
use anyhow::{Result, bail};
use bgp::{Facts, Kind, Written, answer};
use datastore::Store;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// After a start, until it is looked.
const SOON: Duration = Duration::from_millis(100);
/// The longest rest before it is started again.
const REST_MAX: Duration = Duration::from_secs(60);
/// So long BIRD has to end when it is asked to.
const END: Duration = Duration::from_secs(10);

pub struct Worker {
    program: PathBuf,
    passwords: Option<PathBuf>,
    objects: Store,
    files: Files,
    /// What the text was made of.
    made_of: Option<(Arc<Facts>, Facts)>,
    written: Written,
    /// What BIRD was told last, or refused.
    told: Option<String>,
    /// It ran, as far as we know.
    ran: bool,
    rest: Duration,
    not_before: Option<Instant>,
    /// Why it rests.
    why: String,
    /// Since when it answers.
    since: Option<Instant>,
    /// When this agent started one last.
    started: Option<Instant>,
    /// It answered before this agent had started any.
    adopted: bool,
    /// Why its configuration is not in force.
    refused: Option<String>,
    seen: Seen,
}

impl Worker {
    pub fn new(settings: Settings, folder: &Path, objects: Store) -> Self {
        let files = Files::of(folder);
        Self {
            program: settings.program,
            passwords: settings.passwords,
            objects,
            ran: files.pid.exists(),
            files,
            made_of: None,
            written: Written::default(),
            told: None,
            rest: LOOK,
            not_before: None,
            why: String::new(),
            since: None,
            started: None,
            adopted: false,
            refused: None,
            seen: Seen::default(),
        }
    }

    pub fn run(&mut self, shared: &Mailbox<Shared>) {
        let mut rest = LOOK;
        loop {
            let wanted = shared.hear(Some(rest)).value.wanted.clone();
            let Some(wanted) = wanted else { continue };
            let written = self.write(&wanted);
            // Before anything is written no BIRD is told anything, nor started.
            let done = if self.made_of.is_some() { self.keep() } else { Ok(true) };
            rest = if matches!(done, Ok(false)) || written.is_err() { SOON } else { LOOK };
            let trouble = done.err().map(|trouble| trouble.to_string()).or_else(|| self.refused.clone());
            let trouble = trouble.or_else(|| written.err().flatten());
            if let Some(why) = trouble.as_ref().filter(|_| trouble != self.seen.trouble) {
                warn!("BIRD: {why}");
            }
            self.seen.trouble = trouble;
            shared.look().value.seen = self.seen.clone();
        }
    }

    /// Makes the text, where anything of it may be another. `Err`: of a password nobody knows yet what it is, for this reason perhaps.
    fn write(&mut self, wanted: &Arc<Facts>) -> Result<(), Option<String>> {
        let asked = bgp::secrets(wanted);
        let found = passwords::find(self.passwords.as_deref(), &*self.objects, &asked)?;
        if self.made_of.as_ref().is_some_and(|(from, made)| Arc::ptr_eq(from, wanted) && made.passwords == found) {
            return Ok(());
        }
        let facts = Facts { passwords: found, log: self.files.log.clone(), ..Facts::clone(wanted) };
        self.written = bgp::configuration(&facts);
        for problem in self.written.problems.iter().filter(|problem| !self.seen.problems.contains(problem)) {
            warn!("BGP: {problem}");
        }
        self.seen.problems.clone_from(&self.written.problems);
        self.made_of = Some((Arc::clone(wanted), facts));
        Ok(())
    }

    /// `Ok(false)`: it was started just now.
    fn keep(&mut self) -> Result<bool, Trouble> {
        let program = Program::find(&self.program);
        match Control::open(&self.files.socket) {
            Ok(control) => self.attend(&program, control).map(|()| true),
            Err(_) => {
                self.seen.sessions.clear();
                let ended = std::mem::take(&mut self.seen.running);
                self.begin(&program, ended).map(|()| false)
            }
        }
    }

    fn attend(&mut self, program: &Program, mut control: Control) -> Result<(), Trouble> {
        let version = program.suits(control.version.clone().unwrap_or_default())?;
        if !self.seen.running {
            info!(version, "BIRD answers");
        }
        (self.seen.running, self.seen.version, self.ran) = (true, Some(version), true);
        self.adopted |= self.started.is_none();
        let now = Instant::now();
        if now.duration_since(*self.since.get_or_insert(now)) > REST_MAX {
            self.rest = LOOK;
        }
        if self.told.as_ref() != Some(&self.written.text) {
            self.tell(program, &mut control)?;
        }
        let lines = control.ask("show protocols all").map_err(Trouble::Answer)?;
        self.seen.sessions = answer::sessions(&lines);
        Ok(())
    }

    /// A text that is refused is not tried again: it is another that will be.
    fn tell(&mut self, program: &Program, control: &mut Control) -> Result<(), Trouble> {
        self.refused = match self.put(program) {
            Ok(()) => refusal(&control.ask("configure").map_err(Trouble::Answer)?)
                .map(|why| Trouble::Refused(why).to_string()),
            Err(refused @ Trouble::Refused(_)) => Some(refused.to_string()),
            Err(error) => return Err(error),
        };
        self.told = Some(self.written.text.clone());
        if self.refused.is_none() {
            info!("BIRD has its configuration");
        }
        Ok(())
    }

    fn put(&self, program: &Program) -> Result<(), Trouble> {
        let of = |error| Trouble::File(self.files.next.clone(), error);
        self.files.write_next(&self.written.text).map_err(of)?;
        program.check(&self.files)?;
        self.files.put_next().map_err(of)
    }

    fn begin(&mut self, program: &Program, ended: bool) -> Result<(), Trouble> {
        let now = Instant::now();
        if ended {
            self.rest_after("has ended, and is started again".to_owned(), now);
        }
        if let Some(pid) = self.files.running() {
            let is_young = self.started.is_some_and(|at| now.duration_since(at) < END);
            return if is_young { Ok(()) } else { Err(Trouble::Silent(pid)) };
        }
        if self.not_before.is_some_and(|at| now < at) {
            return Err(Trouble::Rests(self.why.clone()));
        }
        if let Err(trouble) = self.start(program) {
            self.rest_after(trouble.to_string(), now);
            return Err(trouble);
        }
        self.seen.restarts += u64::from(self.started.replace(now).is_some() || self.adopted);
        self.told = Some(self.written.text.clone());
        self.rest_after("ended as soon as it was started".to_owned(), now);
        info!(again = self.ran, "BIRD is started");
        Ok(())
    }

    fn start(&mut self, program: &Program) -> Result<(), Trouble> {
        self.seen.version = None;
        self.seen.version = Some(program.version()?);
        // The former one is better than none, where there is one.
        self.refused = match self.put(program) {
            Err(refused @ Trouble::Refused(_)) if self.files.configuration.exists() => Some(refused.to_string()),
            put => put.map(|()| None)?,
        };
        program.start(&self.files, self.ran)
    }

    fn rest_after(&mut self, why: String, now: Instant) {
        (self.why, self.since, self.not_before) = (why, None, Some(now + self.rest));
        self.rest = (self.rest * 2).min(REST_MAX);
    }
}

/// Sessions go first, and with them what BIRD has written into the kernel; then BIRD.
pub fn cleanup(folder: &Path) -> Result<Option<String>> {
    let files = Files::of(folder);
    if !files.folder.exists() {
        return Ok(None);
    }
    let said = match Control::open(&files.socket) {
        Ok(control) => {
            end(control, &files)?;
            "removed  BIRD, and the routes that it has learned".to_owned()
        }
        Err(_) => match files.running() {
            Some(pid) => bail!("BIRD, process {pid}, does not answer at {}; end it by hand", files.socket.display()),
            None => {
                "kept     routes of protocol bird, if there are: no BIRD of ours runs that would know which are its own"
                    .to_owned()
            }
        },
    };
    match fs::remove_dir_all(&files.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            bail!("{}: {error}; remove it by hand", files.folder.display())
        }
        _ => Ok(Some(said)),
    }
}

fn end(mut control: Control, files: &Files) -> Result<()> {
    let until = Instant::now() + END;
    let patterns = Kind::ALL.map(|kind| format!("disable \"{}*\"", kind.prefix()));
    for command in patterns.iter().map(String::as_str).chain(["disable \"gateways*\""]) {
        // One that matches nothing is refused, which is as good.
        control.ask(command)?;
    }
    let is_up = |lines: &[String]| answer::sessions(lines).iter().any(|session| session.state != "down");
    while is_up(&control.ask("show protocols all")?) {
        if Instant::now() >= until {
            bail!("BIRD's sessions do not end; its routes stay, and so does BIRD");
        }
        thread::sleep(SOON);
    }
    control.ask("down")?;
    while files.running().is_some() {
        if Instant::now() >= until {
            bail!("BIRD does not end; end it by hand");
        }
        thread::sleep(SOON);
    }
    Ok(())
}
