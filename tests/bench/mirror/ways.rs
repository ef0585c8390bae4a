//! Watchers by the thousand, each with a connection of its own, as so many nodes have.
//! In: a namespace, a way. Out: how many watch.
//! Invariant: a watcher reads all that comes and decodes none of it.
//! Never: asks again once it watches: one whose watch ends is an error.

use ::tests::{NetNs, fabric};
use anyhow::{Context as _, Result, bail};
use futures::{AsyncReadExt as _, StreamExt as _, stream};
use http::uri::PathAndQuery;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Serialize;
use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{runtime::Builder, time};
use tonic::{Request, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

/// Of the mirror's keys.
const PREFIX: &str = "/tortie/mirror/v1/";
const PREFIX_END: &str = "/tortie/mirror/v10";
/// Watches that begin at once.
const AT_ONCE: usize = 16;

/// Whom they watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The API server: pods alone.
    Direct,
    /// The mirror's etcd: everything.
    Mirror,
    /// The same, by etcd's grpc-proxy.
    Proxy,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Direct, Self::Mirror, Self::Proxy];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "API server, pods",
            Self::Mirror => "mirror, all kinds",
            Self::Proxy => "mirror by a proxy",
        })
    }
}

/// `etcdserverpb.WatchRequest`, as far as it is sent here.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Watch {
    #[prost(message, optional, tag = "1")]
    create: Option<Create>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Create {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(bool, tag = "4")]
    progress_notify: bool,
}

/// An answer of which nothing is read.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Answer {}

#[derive(Debug, Default)]
struct Shared {
    begun: AtomicUsize,
    is_over: AtomicBool,
    failed: Mutex<Option<String>>,
}

/// They end with this value.
pub struct Watchers {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchers {
    pub fn start(namespace: &NetNs, way: Way, count: usize, kubeconfig: &Path) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let config = Kubeconfig::read_from(kubeconfig).context("reading a kubeconfig")?;
        let theirs = Arc::clone(&shared);
        let entered = namespace.entering()?;
        let run = move || {
            let watched = entered().and_then(|()| {
                let runtime = Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
                runtime.block_on(watch(way, count, config, &theirs))
            });
            if let Err(why) = watched {
                *theirs.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{why:#}"));
            }
        };
        let thread = thread::Builder::new().name("watchers".into()).spawn(run).context("starting watchers")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How many watch.
    pub fn begun(&self) -> usize {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// None of them has ended.
    pub fn check(&self) -> Result<()> {
        match &*self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => bail!("a watcher: {why}"),
            None => Ok(()),
        }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What went wrong there was said.
            let _ = thread.join();
        }
    }
}

async fn watch(way: Way, count: usize, config: Kubeconfig, shared: &Shared) -> Result<()> {
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let over = async {
        while !shared.is_over.load(Ordering::Relaxed) {
            time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    let begin = |_| async {
        let reading = match way {
            Way::Direct => direct(config.clone()).await?,
            Way::Mirror => mirrored(2379).await?,
            Way::Proxy => mirrored(2390).await?,
        };
        shared.begun.fetch_add(1, Ordering::Relaxed);
        anyhow::Ok(reading)
    };
    let all = async {
        let begun: Vec<_> = stream::iter(0..count).map(begin).buffer_unordered(AT_ONCE).collect().await;
        let reading = begun.into_iter().collect::<Result<Vec<_>>>()?;
        futures::future::try_join_all(reading).await.map(drop)
    };
    tokio::select! {
        done = over => done,
        done = all => done,
    }
}

type Reading = futures::future::BoxFuture<'static, Result<()>>;

/// Reads until the end, which is too early.
async fn direct(config: Config) -> Result<Reading> {
    let client = Client::try_from(config)?;
    let path = "/api/v1/pods?watch=1&allowWatchBookmarks=true&resourceVersion=0";
    let asked = http::Request::get(path).body(Vec::new())?;
    let answer = client.request_stream(asked).await?;
    Ok(Box::pin(async move {
        let _lives = client;
        let mut answer = Box::pin(answer);
        let mut some = vec![0; 64 * 1024];
        while answer.read(&mut some).await? > 0 {}
        bail!("the API server has ended a watch")
    }))
}

async fn mirrored(port: u16) -> Result<Reading> {
    let channel = Endpoint::from_shared(format!("http://{}:{port}", fabric::OUTSIDE_V4))?.connect().await?;
    let create = Create { key: PREFIX.into(), range_end: PREFIX_END.into(), progress_notify: true };
    let asked = stream::once(async { Watch { create: Some(create) } }).chain(stream::pending());
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    let answers = grpc.streaming(Request::new(asked), path, ProstCodec::<Watch, Answer>::default()).await?;
    Ok(Box::pin(async move {
        let _lives = grpc;
        let mut answers = answers.into_inner();
        while answers.message().await?.is_some() {}
        bail!("etcd has ended a watch")
    }))
}
