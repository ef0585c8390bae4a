//! Services and what stands behind them, for who has all else from somewhere else.
//! In: a connection. Out: what the API server says of both kinds.
//! Invariant: it is heard as by an agent whose datastore the API server is.
//! Never: waits for the server.

use super::{connection::Connection, gather::Said, kinds, listed::Known, watched::watched};
use futures::{StreamExt as _, stream};
use std::path::Path;
use tokio::{sync::mpsc::Sender, task::JoinHandle};

/// Watches; they end with the value.
#[derive(Debug)]
pub(crate) struct Watches(JoinHandle<()>);

impl Drop for Watches {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Nothing is known of these yet. Their objects lie within a folder.
pub(crate) fn unheard(folder: &Path) -> Vec<Known> {
    kinds::of_services().into_iter().map(|kind| Known::new(kind, folder)).collect()
}

/// Says what is heard, each with its number among [`unheard`], until nobody listens.
pub(crate) fn hear<T: Send + 'static>(
    connection: &Connection,
    say: Sender<T>,
    told: impl Fn(usize, Said) -> T + Send + Sync + 'static,
) -> Watches {
    let client = connection.client.clone();
    Watches(connection.runtime.spawn(async move {
        let numbered = kinds::of_services().into_iter().enumerate();
        let watches =
            numbered.map(|(number, kind)| watched(client.clone(), kind).map(move |said| (number, said)).boxed());
        let mut all = stream::select_all(watches);
        while let Some((number, said)) = all.next().await {
            if say.send(told(number, said)).await.is_err() {
                return;
            }
        }
    }))
}
