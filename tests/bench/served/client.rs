//! A client of the API server, for objects by the thousand.
//! In: a kubeconfig, the namespace from which the server is reached. Out: objects created and deleted, many at once.
//! Invariant: what returns was acknowledged by the server.
//! Never: watches.

use ::tests::NetNs;
use anyhow::{Context as _, Result};
use futures::{TryStreamExt as _, stream};
use kube::{
    Api, Client as Kube, Config,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use std::path::Path;
use tokio::runtime::{Builder, Runtime};

/// Requests under way.
const AT_ONCE: usize = 32;

/// Its sockets are of the thread that asks, and so of the namespace.
pub struct Client<'a> {
    runtime: Runtime,
    kube: Kube,
    namespace: &'a NetNs,
}

impl<'a> Client<'a> {
    /// As this kubeconfig says.
    pub fn open(namespace: &'a NetNs, kubeconfig: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
        let config = Kubeconfig::read_from(kubeconfig).context("reading the administrator's kubeconfig")?;
        let kube = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Kube::try_from(config)?)
        })?;
        Ok(Self { runtime, kube, namespace })
    }

    /// Creates these; a pod's status with it, as its kubelet would write it.
    pub fn create(&self, objects: Vec<Value>) -> Result<()> {
        self.each(objects, async |api, object: DynamicObject| {
            api.create(&PostParams::default(), &object).await?;
            let Some(status) = object.data.get("status") else { return Ok(()) };
            let (name, patch) = (object.metadata.name.as_deref().unwrap_or_default(), json!({ "status": status }));
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        })
    }

    /// Deletes these at once, without a grace.
    pub fn delete(&self, objects: Vec<Value>) -> Result<()> {
        self.each(objects, async |api, object: DynamicObject| {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            api.delete(name, &DeleteParams::default().grace_period(0)).await.map(drop)
        })
    }

    fn each(
        &self,
        objects: Vec<Value>,
        work: impl AsyncFn(Api<DynamicObject>, DynamicObject) -> kube::Result<()> + Send + Sync,
    ) -> Result<()> {
        let one = async |object: Value| {
            let object: DynamicObject = serde_json::from_value(object).context("an object without a kind")?;
            let name = object.metadata.name.clone().unwrap_or_default();
            work(self.api(&object)?, object).await.with_context(|| format!("asking the API server about {name}"))
        };
        self.namespace.inside(|| {
            let all = stream::iter(objects.into_iter().map(Ok)).try_for_each_concurrent(AT_ONCE, one);
            self.runtime.block_on(all)
        })
    }

    fn api(&self, object: &DynamicObject) -> Result<Api<DynamicObject>> {
        let types = object.types.as_ref().context("an object without a kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types).context("an object of no kind")?);
        Ok(match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(self.kube.clone(), namespace, &resource),
            None => Api::all_with(self.kube.clone(), &resource),
        })
    }
}
