//! The way to etcd: one of its members at a time, by gRPC.
//! In: endpoints, certificates, a user. Out: answers, for all who ask.
//! Invariant: whoever asks waits no longer than its patience; a member that does not answer is left for the next one; certificates
//! and the password are read anew for every new connection.
//! Never: asks by itself; writes twice what was asked once.

use super::{
    error::{EtcdError, Unanswered, is_of_the_way},
    message::{
        AuthenticateRequest, AuthenticateResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchCreate,
        WatchRequest, WatchResponse,
    },
};
use futures::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    runtime::{self, Runtime},
    time,
};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

/// So long etcd may take for one answer, over all members that are asked for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// One member has at least so long.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// So long an etcd that did not answer is not asked again by threads that wait.
const SILENCE: Duration = Duration::from_secs(2);
/// A connection is tried after so long without a word; etcd takes it ill more often than every five seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The largest message that is read; etcd's own objects have 1.5 MiB.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// Where etcd is, and who asks it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdSettings {
    /// Its members, as URLs.
    pub endpoints: Vec<String>,
    /// Who signed their certificates.
    pub ca_cert_file: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Our name, and the file that holds the password.
    pub login: Option<(String, PathBuf)>,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Blocks, affinities, handles.
    Addresses,
    /// A node's host endpoint.
    HostEndpoint,
    /// Who does what only one may do.
    Lease,
    /// This node's own object.
    Node,
    /// A pod's endpoint.
    Pod,
    /// What load balancers were given.
    Service,
    /// How a node's BGP is.
    Status,
}

impl Write {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Addresses, "addresses"),
        (Self::HostEndpoint, "hostendpoint"),
        (Self::Lease, "lease"),
        (Self::Node, "node"),
        (Self::Pod, "pod"),
        (Self::Service, "service"),
        (Self::Status, "status"),
    ];
}

/// An etcd that can be asked. Cheap to clone.
#[derive(Clone)]
pub struct EtcdConnection(Arc<Inner>);

struct Inner {
    settings: EtcdSettings,
    name: String,
    runtime: Runtime,
    way: Mutex<Way>,
    silent_until: Mutex<Option<Instant>>,
    writes: [AtomicU64; Write::ALL.len()],
    is_paused: AtomicBool,
}

/// The member that is asked now.
#[derive(Default)]
struct Way {
    number: usize,
    channel: Option<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

impl std::fmt::Debug for EtcdConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EtcdConnection({})", self.0.name)
    }
}

impl EtcdConnection {
    /// Whether etcd answers shows later.
    ///
    /// # Errors
    /// There can be no way by these settings.
    pub fn open(settings: EtcdSettings) -> Result<Self, EtcdError> {
        // One thread does the input and output for all who ask; those wait in their own.
        let mut builder = runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("api").enable_all().build();
        let runtime = runtime.map_err(|error| EtcdError::Client(error.to_string()))?;
        let name = settings.endpoints.join(",");
        let (way, silent_until, writes, is_paused) = Default::default();
        let opened = Self(Arc::new(Inner { settings, name, runtime, way, silent_until, writes, is_paused }));
        // What is wrong with the settings is said at once.
        for endpoint in &opened.0.settings.endpoints {
            opened.channel(endpoint)?;
        }
        opened.password()?;
        Ok(opened)
    }

    /// Its endpoints.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    /// Writes that it was asked for, by what is written.
    pub fn writes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Write::ALL.iter().zip(&self.0.writes).map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
    }

    pub(super) fn count(&self, write: Write) {
        let place = Write::ALL.iter().position(|(own, _)| *own == write);
        if let Some(count) = place.and_then(|place| self.0.writes.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether Calico's objects are locked: nothing of them may be written, and what they say does not count.
    pub(super) fn is_paused(&self) -> bool {
        self.0.is_paused.load(Ordering::Relaxed)
    }

    pub(super) fn pause(&self, is_paused: bool) {
        self.0.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// Asks, and waits for the answer. To be called by threads that are not the runtime's.
    pub(super) fn ask<T>(&self, question: impl Future<Output = Result<T, Unanswered>>) -> Result<T, Unanswered> {
        let silence = || self.0.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        if silence().is_some_and(|until| Instant::now() < until) {
            return Err(Unanswered::Silent);
        }
        let asked = Instant::now();
        let answer = self.runtime().block_on(question);
        // Also where no connection came about: that is told, but as late.
        let is_silent = |unanswered: &Unanswered| unanswered.is_of_the_way() && asked.elapsed() >= PATIENCE_MIN;
        if answer.as_ref().is_err_and(is_silent) {
            *silence() = Some(Instant::now() + SILENCE);
        }
        answer
    }

    /// One after the other, until a member answers.
    pub(super) async fn range(&self, question: &RangeRequest) -> Result<RangeResponse, Unanswered> {
        self.range_within(question, self.patience()).await
    }

    /// The same, where much is asked for.
    pub(super) async fn range_within(
        &self,
        question: &RangeRequest,
        patience: Duration,
    ) -> Result<RangeResponse, Unanswered> {
        let mut others = self.0.settings.endpoints.len().saturating_sub(1);
        loop {
            match self.call("/etcdserverpb.KV/Range", question, patience).await {
                Err(unanswered) if others > 0 && unanswered.is_of_the_way() => others -= 1,
                answer => return answer,
            }
        }
    }

    /// Once: whoever hears no answer does not know whether it was done.
    pub(super) async fn transact(&self, question: &TxnRequest) -> Result<TxnResponse, Unanswered> {
        self.call("/etcdserverpb.KV/Txn", question, self.patience()).await
    }

    /// What changes from a revision on, and who says it. A member that has lost its leader ends it.
    pub(super) async fn watch(&self, create: WatchCreate) -> Result<(Streaming<WatchResponse>, usize), Unanswered> {
        let (number, channel, token) = self.way().await?;
        let asked = stream::once(async { WatchRequest { create: Some(create) } }).chain(stream::pending());
        let mut request = signed(Request::new(asked), token);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let begun = async {
            let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_MAX);
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            grpc.streaming(request, path, ProstCodec::default()).await
        };
        let answered = self.heeded(number, time::timeout(self.patience(), begun).await);
        answered.map(|answers| (answers.into_inner(), number))
    }

    /// What this member was asked of the way failed: the next one is asked from now on.
    pub(super) fn leave(&self, number: usize) {
        self.turn(number);
    }

    fn patience(&self) -> Duration {
        let members = u32::try_from(self.0.settings.endpoints.len()).unwrap_or(u32::MAX).max(1);
        (PATIENCE / members).max(PATIENCE_MIN)
    }

    async fn call<Q, A>(&self, path: &'static str, question: &Q, patience: Duration) -> Result<A, Unanswered>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let first = self.call_once(path, question, patience).await;
        // A token ends, or what a user may do has changed since it was given.
        let is_stale = |unanswered: &Unanswered| matches!(unanswered, Unanswered::Refused(status) if matches!(status.code(), Code::Unauthenticated | Code::InvalidArgument));
        match first {
            Err(unanswered) if self.0.settings.login.is_some() && is_stale(&unanswered) => {
                self.look().token = None;
                self.call_once(path, question, patience).await
            }
            answer => answer,
        }
    }

    async fn call_once<Q, A>(&self, path: &'static str, question: &Q, patience: Duration) -> Result<A, Unanswered>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let (number, channel, token) = self.way().await?;
        let request = signed(Request::new(question.clone()), token);
        self.heeded(number, time::timeout(patience, unary(channel, request, path)).await)
    }

    fn heeded<T>(
        &self,
        number: usize,
        answer: Result<Result<T, Status>, time::error::Elapsed>,
    ) -> Result<T, Unanswered> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => {
                if is_of_the_way(status.code()) {
                    self.turn(number);
                }
                Err(Unanswered::Refused(Box::new(status)))
            }
            Err(_) => {
                self.turn(number);
                Err(Unanswered::Silent)
            }
        }
    }

    fn look(&self) -> MutexGuard<'_, Way> {
        self.0.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To the next member, unless somebody else has turned already.
    fn turn(&self, number: usize) {
        let mut way = self.look();
        if way.number == number {
            *way = Way { number: number.wrapping_add(1), channel: None, token: None };
        }
    }

    async fn way(&self) -> Result<(usize, Channel, Option<MetadataValue<Ascii>>), Unanswered> {
        let (number, channel, token) = {
            let mut way = self.look();
            let endpoints = &self.0.settings.endpoints;
            let channel = match &way.channel {
                Some(channel) => channel.clone(),
                None => {
                    let endpoint = endpoints.get(way.number % endpoints.len().max(1)).map_or("", String::as_str);
                    let fresh = self.channel(endpoint).map_err(Unanswered::Unusable)?;
                    way.channel.insert(fresh).clone()
                }
            };
            (way.number, channel, way.token.clone())
        };
        let token = match token {
            None => self.log_in(number, channel.clone()).await?,
            known => known,
        };
        Ok((number, channel, token))
    }

    /// `None`: nobody is named.
    async fn log_in(&self, number: usize, channel: Channel) -> Result<Option<MetadataValue<Ascii>>, Unanswered> {
        let (Some((name, _)), Some(password)) =
            (&self.0.settings.login, self.password().map_err(Unanswered::Unusable)?)
        else {
            return Ok(None);
        };
        let question = Request::new(AuthenticateRequest { name: name.clone(), password });
        let asked = unary(channel, question, "/etcdserverpb.Auth/Authenticate");
        let answer: AuthenticateResponse = self.heeded(number, time::timeout(self.patience(), asked).await)?;
        let token = MetadataValue::try_from(answer.token)
            .map_err(|error| Unanswered::Refused(Box::new(Status::unauthenticated(error.to_string()))))?;
        let mut way = self.look();
        if way.number == number {
            way.token = Some(token.clone());
        }
        Ok(Some(token))
    }

    fn password(&self) -> Result<Option<String>, EtcdError> {
        let Some((_, path)) = &self.0.settings.login else { return Ok(None) };
        let text = String::from_utf8(read(path)?)
            .map_err(|error| EtcdError::File { path: path.clone(), reason: error.to_string() })?;
        Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, EtcdError> {
        let failed = |reason: String| EtcdError::Endpoint { endpoint: endpoint.to_owned(), reason };
        let settings = &self.0.settings;
        let mut made = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| failed(error.to_string()))?;
        match made.uri().scheme_str() {
            Some("http") => {}
            Some("https") => {
                let ca = settings
                    .ca_cert_file
                    .as_deref()
                    .ok_or_else(|| failed("name who signed its certificate by --etcd-ca-cert-file".to_owned()))?;
                let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
                if let Some((certificate, key)) = &settings.identity {
                    tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
                }
                made = made.tls_config(tls).map_err(|error| failed(said(&error)))?;
            }
            _ => return Err(failed("write it as http://HOST:PORT or https://HOST:PORT".to_owned())),
        }
        // Only while there is a watch, as nearly always: etcd takes it ill otherwise.
        let made = made.connect_timeout(self.patience()).keep_alive_while_idle(false);
        let made = made.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(PATIENCE);
        // What the channel spawns belongs to the runtime.
        let _inside = self.runtime().enter();
        Ok(made.connect_lazy())
    }
}

async fn unary<Q, A>(channel: Channel, request: Request<Q>, path: &'static str) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let answer = grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default()).await?;
    Ok(answer.into_inner())
}

fn signed<T>(mut request: Request<T>, token: Option<MetadataValue<Ascii>>) -> Request<T> {
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}

fn read(path: &Path) -> Result<Vec<u8>, EtcdError> {
    fs::read(path).map_err(|error| EtcdError::File { path: path.to_owned(), reason: error.to_string() })
}

fn said(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
