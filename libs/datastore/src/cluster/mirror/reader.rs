//! An agent's ear: the mirror while it lives, else the API server itself, and the mirror again once both say the same.
//! In: an etcd, and the kinds that are watched. Out: what watches of these kinds would have said.
//! Invariant: from the mirror to the API server by a list that is as new as any, from there to the mirror at a moment at which both
//! have said the same: nothing that is in force goes but by a word of one of them that it is gone.
//! Never: asks the API server while the mirror lives; goes to a server that does not answer.

use super::{
    BEAT, PREFIX, STATE,
    log::{Log, State, Told},
    records,
    twins::{Side, Twins},
};
use crate::{
    EtcdConnection,
    cluster::{
        gather::Said,
        kinds::{Calico, Watched},
        watched, watches,
    },
    etcd::{self, guarded},
};
use futures::{
    Stream, StreamExt as _,
    future::Either,
    stream::{self, BoxStream, SelectAll},
};
use kube::Client;
use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};
use tokio::{
    sync::mpsc::{self, Receiver, Sender, channel},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

/// So long a mirror may say nothing: another leader takes over in less.
const STALE: Duration = Duration::from_secs(15);
/// Agents do not all go to the API server at once.
const SPREAD: Duration = Duration::from_secs(10);
/// So long an agent that has just begun waits for a word.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether the mirror lives, or the API server does.
const LOOK: Duration = Duration::from_secs(5);
/// Before a list that was none is listed again.
const PAUSE: Duration = Duration::from_secs(1);
/// What may wait to be gathered; the rest waits where it is.
const WAITING: usize = 1024;

/// Whom an agent hears, and of what.
pub(in crate::cluster) struct Reader {
    pub(in crate::cluster) etcd: EtcdConnection,
    pub(in crate::cluster) client: Client,
    pub(in crate::cluster) kinds: Vec<Watched>,
    pub(in crate::cluster) calico: Calico,
    /// Who hears.
    pub(in crate::cluster) node: String,
}

/// A task that ends with this value.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Without an end.
pub(in crate::cluster) fn heard(
    reader: Reader,
    runtime: &tokio::runtime::Runtime,
) -> impl Stream<Item = (usize, Said)> + Unpin + use<> {
    let (say, mut heard) = channel(WAITING);
    let task = Task(runtime.spawn(async move { drop(reader.run(&say).await) }));
    stream::poll_fn(move |context| {
        let _lives = &task;
        heard.poll_recv(context)
    })
}

/// Where Calico's objects are, as the mirror says; `None`: there is none that says so.
pub(in crate::cluster) async fn calico(etcd: &EtcdConnection) -> Option<Calico> {
    let (_, state) = stated(etcd).await?;
    Some(if state.is_native { Calico::Native } else { Calico::Stored })
}

/// The writer's last word, and its revision.
async fn stated(etcd: &EtcdConnection) -> Option<(i64, State)> {
    let found = timeout(LOOK, guarded::list(etcd, STATE)).await.ok()?.ok()?;
    let (_, value, revision) = found.into_iter().find(|(key, ..)| key == STATE)?;
    Some((revision, serde_json::from_slice(&value).ok()?))
}

/// Once the mirror's writer has been seen to live, and to be no more behind.
async fn lives(etcd: &EtcdConnection) {
    let mut before = None;
    loop {
        let now = stated(etcd).await.filter(|(_, state)| !state.is_behind).map(|(revision, _)| revision);
        if now.is_some() && before.is_some_and(|before| Some(before) != now) {
            return;
        }
        before = now;
        sleep(LOOK.max(2 * BEAT)).await;
    }
}

/// What the mirror says, checked.
struct Mirrored {
    log: Log,
    said: Receiver<etcd::Said>,
    _task: Task,
}

impl Mirrored {
    fn listen(etcd: &EtcdConnection) -> Self {
        let (say, said) = channel(WAITING);
        let etcd = etcd.clone();
        let task = tokio::spawn(async move { etcd::watched(&etcd, PREFIX, &say).await });
        Self { log: Log::default(), said, _task: Task(task) }
    }

    /// What follows from what it says next; what is none is listed anew.
    async fn next(&mut self, etcd: &EtcdConnection) -> Vec<Told> {
        let mut told = Vec::new();
        if let Some(said) = self.said.recv().await
            && let Err(why) = self.log.hear(said, &mut told)
        {
            tracing::warn!("the mirror at {}: {why}; all stays as it was while it is listed anew", etcd.name());
            told.clear();
            *self = Self::listen_after(etcd, PAUSE);
        }
        told
    }

    fn listen_after(etcd: &EtcdConnection, pause: Duration) -> Self {
        let (say, said): (Sender<etcd::Said>, _) = mpsc::channel(WAITING);
        let etcd = etcd.clone();
        let task = tokio::spawn(async move {
            sleep(pause).await;
            etcd::watched(&etcd, PREFIX, &say).await;
        });
        Self { log: Log::default(), said, _task: Task(task) }
    }
}

/// Nobody listens any more.
struct Deaf;

impl Reader {
    async fn run(self, say: &Sender<(usize, Said)>) -> Result<(), Deaf> {
        let mut mirror = Mirrored::listen(&self.etcd);
        let mut is_first = true;
        loop {
            let why = self.by_mirror(&mut mirror, is_first, say).await?;
            let message = format!("{}: {why}; the API server is asked itself", self.etcd.name());
            self.say(say, usize::MAX, Said::Mirror(Some(message))).await?;
            drop(mirror);
            mirror = self.by_server(is_first, say).await?;
            self.say(say, usize::MAX, Said::Mirror(None)).await?;
            is_first = false;
        }
    }

    async fn say(&self, say: &Sender<(usize, Said)>, kind: usize, said: Said) -> Result<(), Deaf> {
        say.send((kind, said)).await.map_err(|_| Deaf)
    }

    /// Until it does not live any more: why not.
    async fn by_mirror(
        &self,
        mirror: &mut Mirrored,
        is_first: bool,
        say: &Sender<(usize, Said)>,
    ) -> Result<String, Deaf> {
        let patience = if is_first { PATIENCE } else { STALE + spread(&self.node, SPREAD) };
        let (mut heard, mut patience, mut trouble) = (Instant::now(), patience, None);
        let mut is_listed = false;
        loop {
            let told = tokio::select! {
                told = mirror.next(&self.etcd) => told,
                () = sleep_until(heard + patience) => {
                    let silent = || format!("says nothing new for {} s", patience.as_secs());
                    return Ok(trouble.unwrap_or_else(silent));
                }
            };
            if told.iter().any(|told| matches!(told, Told::Beat(state) if state.is_native != self.is_native())) {
                return Ok("has Calico's objects of another group".to_owned());
            }
            for told in told {
                match told {
                    Told::Beat(_) => {
                        heard = Instant::now();
                        patience = STALE + spread(&self.node, SPREAD);
                    }
                    // A long list is a sign of life.
                    Told::Record(..) if !is_listed => heard = Instant::now(),
                    Told::Listing => is_listed = false,
                    Told::Listed => is_listed = true,
                    Told::Trouble(now) => {
                        if is_first
                            && !is_listed
                            && let Some(why) = now
                        {
                            return Ok(why);
                        }
                        trouble = now;
                        continue;
                    }
                    Told::Record(..) => {}
                }
                self.pass(told, say).await?;
            }
        }
    }

    fn is_native(&self) -> bool {
        self.calico == Calico::Native
    }

    /// As watches of the kinds would say it.
    async fn pass(&self, told: Told, say: &Sender<(usize, Said)>) -> Result<(), Deaf> {
        match told {
            Told::Listing => self.each(say, || Said::Listing).await,
            Told::Listed => self.each(say, || Said::Listed).await,
            Told::Record(key, value) => match records::object(&self.kinds, &key, value.as_deref()) {
                Some(Ok((kind, object))) => {
                    let said = if value.is_some() { Said::Object(object) } else { Said::Gone(object) };
                    self.say(say, kind, said).await
                }
                // It keeps what it was. Nobody but a writer of another version writes such a thing.
                Some(Err(error)) => {
                    tracing::error!("the mirror at {}: {key}: {error}", self.etcd.name());
                    Ok(())
                }
                None => Ok(()),
            },
            Told::Beat(_) | Told::Trouble(_) => Ok(()),
        }
    }

    async fn each(&self, say: &Sender<(usize, Said)>, said: impl Fn() -> Said) -> Result<(), Deaf> {
        for kind in 0..self.kinds.len() {
            self.say(say, kind, said()).await?;
        }
        Ok(())
    }

    /// Until the mirror can be heard again.
    async fn by_server(&self, is_first: bool, say: &Sender<(usize, Said)>) -> Result<Mirrored, Deaf> {
        if !is_first {
            // Where both are gone the mirror is back first: not all agents ask a server that has just come.
            tokio::select! {
                () = lives(&self.etcd) => return Ok(Mirrored::listen(&self.etcd)),
                () = self.answers() => {}
            }
        }
        let mut server = self.server();
        let mut both = Both::of(&self.kinds);
        let (mut mirror, mut life) = (None::<Mirrored>, Box::pin(lives(&self.etcd)));
        loop {
            let heard = tokio::select! {
                heard = server.next() => Either::Left(heard),
                told = next(&mut mirror, &self.etcd) => Either::Right(told),
                () = &mut life, if mirror.is_none() => {
                    mirror = Some(Mirrored::listen(&self.etcd));
                    // What is in force is the mirror's still.
                    if !both.has_said {
                        return Ok(mirror.unwrap_or_else(|| Mirrored::listen(&self.etcd)));
                    }
                    continue;
                }
            };
            match heard {
                Either::Left(Some((kind, said))) => {
                    both.hear(kind, &said);
                    self.say(say, kind, said).await?;
                }
                Either::Left(None) => server = self.server(),
                Either::Right(told) => told.into_iter().for_each(|told| both.mirrored(told, self.is_native())),
            }
            if both.are_one()
                && let Some(mirror) = mirror.take()
            {
                for kind in both.troubled {
                    // It says nothing but that there is no trouble.
                    self.say(say, kind, Said::Absent).await?;
                }
                tracing::info!("the mirror at {} says what the API server says, and is heard again", self.etcd.name());
                return Ok(mirror);
            }
        }
    }

    fn server(&self) -> SelectAll<BoxStream<'static, (usize, Said)>> {
        stream::select_all(watches(&self.client, self.kinds.clone(), self.calico, watched::anew))
    }

    /// Once the API server has answered twice, one look after the other.
    async fn answers(&self) {
        let mut before = false;
        loop {
            let now = matches!(timeout(LOOK, self.client.apiserver_version()).await, Ok(Ok(_)));
            if now && before {
                return;
            }
            before = now;
            sleep(LOOK).await;
        }
    }
}

async fn next(mirror: &mut Option<Mirrored>, etcd: &EtcdConnection) -> Vec<Told> {
    match mirror {
        Some(mirror) => mirror.next(etcd).await,
        None => std::future::pending().await,
    }
}

/// A part of it that is this node's own.
fn spread(node: &str, whole: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    whole * u32::try_from(hasher.finish() % 1000).unwrap_or_default() / 1000
}

/// What the API server says, and the mirror beside it.
struct Both<'a> {
    kinds: &'a [Watched],
    twins: Twins,
    /// Kinds that the server has listed.
    listed: BTreeSet<usize>,
    /// Kinds of which the server's last word was trouble.
    troubled: BTreeSet<usize>,
    /// The server has said something that counts.
    has_said: bool,
    /// When the mirror lived last, after its list.
    lived: Option<Instant>,
}

impl<'a> Both<'a> {
    fn of(kinds: &'a [Watched]) -> Self {
        let (twins, listed, troubled) = Default::default();
        Self { kinds, twins, listed, troubled, has_said: false, lived: None }
    }

    fn hear(&mut self, number: usize, said: &Said) {
        let Some(kind) = self.kinds.get(number) else { return };
        match said {
            Said::Trouble(_) => drop(self.troubled.insert(number)),
            _ => drop(self.troubled.remove(&number)),
        }
        match said {
            Said::Listing => {
                self.listed.remove(&number);
                self.twins.forget(Side::Server, &records::prefix(kind));
            }
            Said::Object(object) => {
                self.has_said = true;
                if let Some(key) = records::key(kind, object) {
                    self.twins.say(Side::Server, key, Some(&records::value(kind, object)));
                }
            }
            Said::Gone(object) => {
                self.has_said = true;
                if let Some(key) = records::key(kind, object) {
                    self.twins.say(Side::Server, key, None);
                }
            }
            Said::Listed | Said::Absent => {
                self.has_said = true;
                self.listed.insert(number);
            }
            Said::Trouble(_) | Said::Native(_) | Said::Mirror(_) => {}
        }
    }

    fn mirrored(&mut self, told: Told, is_native: bool) {
        match told {
            Told::Listing => {
                self.lived = None;
                self.twins.forget(Side::Mirror, "");
            }
            Told::Record(key, value) => {
                // As this version would have written it.
                let read = records::object(self.kinds, &key, value.as_deref()).and_then(Result::ok);
                let value =
                    read.map(|(kind, object)| records::value(&self.kinds[kind], &object)).filter(|_| value.is_some());
                self.twins.say(Side::Mirror, key, value.as_deref());
            }
            Told::Beat(state) => self.lived = (state.is_native == is_native).then(Instant::now),
            Told::Listed | Told::Trouble(_) => {}
        }
    }

    /// Both have said everything, and the same.
    fn are_one(&self) -> bool {
        self.listed.len() == self.kinds.len()
            && self.lived.is_some_and(|lived| lived.elapsed() < STALE)
            && self.twins.are_alike()
    }
}
