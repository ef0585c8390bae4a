//! `tortie mirror`: the API server heard once, for all agents.
//! In: [`MirrorConfig`]. Out: records in an etcd while this mirror leads, until a signal.
//! Invariant: one that ends hands its lease over, and leaves what is written.
//! Never: touches the node that it runs on.

use crate::{config::MirrorConfig, health::Health, metrics};
use anyhow::{Result, bail};
use datastore::{Connection, EtcdConnection, Mirror, MirrorStanding};
use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};
use tracing::{info, warn};

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// Mirrors until a signal ends it.
pub fn run(config: &MirrorConfig) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    let (end, ended) = sync_channel(1);
    thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            // Who does not listen has ended.
            let _ = end.send(());
        }
    })?;
    let connection = Connection::open(config.kubeconfig.as_deref())?;
    let etcd = EtcdConnection::open(config.etcd.clone())?;
    let mirror = Arc::new(Mirror::start(&connection, &etcd, &config.name.0)?);
    let health = Health::default();
    if let Some(address) = config.health_address
        && let Err(error) = health.serve(address)
    {
        warn!("health cannot be asked at {address}: {error}");
    }
    let asked = Arc::downgrade(&mirror);
    if let Some(address) = config.metrics_address
        && let Err(error) = metrics::serve_mirror(address, move || asked.upgrade().map(|mirror| mirror.told()))
    {
        warn!("metrics cannot be asked at {address}: {error}");
    }
    info!(mirror = %config.name, etcd = %config.etcd.endpoints.join(","), "running");
    let mut before = None;
    loop {
        if !mirror.is_alive() {
            bail!("the thread of the lease has ended; start the mirror again");
        }
        let standing = mirror.told().standing;
        if before.replace(standing) != Some(standing) {
            match standing {
                MirrorStanding::Waiting => info!("another mirror leads, or none yet"),
                MirrorStanding::Behind => info!("leading, and not done yet"),
                MirrorStanding::Serving => info!("all is mirrored"),
            }
        }
        // One that waits is as ready as it can be.
        health.beat(standing != MirrorStanding::Behind);
        match ended.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                info!("stopping; what is mirrored stays, and another mirror may lead");
                return Ok(());
            }
        }
    }
}
