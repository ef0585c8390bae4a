//! Objects that agents share, whatever keeps them: a directory, an API server, or etcd.
//! In: objects with the resource version each was read at. Out: as written, or a typed conflict.
//! Invariant: of two writers that read one version exactly one wins.
//! Never: retries; whoever loses reads again and decides anew.

use crate::{
    NodeInterfaces, Object, ObjectError, Objects, StatusRequest,
    census::{self, Survey},
    given,
    hosts::Wanted,
    node_addresses,
    settings::{self, Change, Setting},
    vtep,
};
use ipam::audit::Census;
use model::{
    Attachment, Cidr, IpamConfig, Labels, NodeAddresses, NodeName, NodeVteps, Password, PodAsks, PodId, SecretKey,
    ServiceAddresses, ServiceId, WorkloadAddress,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// A store of small objects, changed only by compare-and-swap.
pub trait Shared: fmt::Debug + Send + Sync {
    /// One object, if it is there.
    ///
    /// # Errors
    /// The store cannot be asked, or the object cannot be read.
    fn get(&self, kind: &str, name: &str) -> Result<Option<Object>, ObjectError>;

    /// The same as it was heard last: where that costs less than asking, it may be late.
    ///
    /// # Errors
    /// As [`Shared::get`].
    fn known(&self, kind: &str, name: &str) -> Result<Option<Arc<Object>>, ObjectError> {
        Ok(self.get(kind, name)?.map(Arc::new))
    }

    /// All objects of a kind, by name.
    ///
    /// # Errors
    /// The store cannot be asked, or one of them cannot be read: a list with a hole is no list.
    fn list(&self, kind: &str) -> Result<Vec<Object>, ObjectError>;

    /// Writes an object that must not be there yet; what version it carries does not matter.
    ///
    /// # Errors
    /// [`ObjectError::Conflict`] if it is there.
    fn create(&self, object: &Object) -> Result<Object, ObjectError>;

    /// Writes an object over exactly the version that it carries; without one, over one that was written by hand.
    ///
    /// # Errors
    /// [`ObjectError::Conflict`] if it is gone or another meanwhile.
    fn update(&self, object: &Object) -> Result<Object, ObjectError>;

    /// Writes several in this order, so that a crash leaves a beginning of the list: each a new one if it carries no version,
    /// else only over exactly that version. Returns them with their new versions.
    ///
    /// # Errors
    /// [`ObjectError::Conflict`] if somebody else was first with one of them: none after it is written.
    fn write_all(&self, objects: &[Object]) -> Result<Vec<Object>, ObjectError> {
        let write = |object: &Object| match &object.metadata.resource_version {
            Some(_) => self.update(object),
            None => self.create(object),
        };
        objects.iter().map(write).collect()
    }

    /// Removes an object; with `version`, only if it still has that one. False if it was not there.
    ///
    /// # Errors
    /// [`ObjectError::Conflict`] if it is another meanwhile.
    fn delete(&self, kind: &str, name: &str, version: Option<&str>) -> Result<bool, ObjectError>;

    /// Makes the addresses of pods known to all nodes, each pod with the attachment of its first interface. Writes nothing where they
    /// already are.
    ///
    /// # Errors
    /// The store refuses one; then none is known to be written.
    fn publish(&self, pods: &[(WorkloadAddress, Attachment)]) -> Result<(), ObjectError>;

    /// What is to be known of pods that are about to be attached, of each or why not, where somebody has to be asked. With `true`: the
    /// datastore has told of this very pod already.
    fn described(&self, pods: &[(PodId, bool)]) -> Vec<Result<Described, ObjectError>> {
        pods.iter().map(|_| Ok(Described::default())).collect()
    }

    /// How nodes take blocks, where it has to be asked for; `None`: the datastore tells of it, or nobody has said.
    ///
    /// # Errors
    /// The store cannot be asked, or it cannot be read.
    fn ipam_config(&self) -> Result<Option<IpamConfig>, ObjectError> {
        Ok(None)
    }

    /// Takes back what `node` said of pods. What another node has said since stays.
    ///
    /// # Errors
    /// The store refuses one; then of none it is known whether it was taken back.
    fn withdraw(&self, pods: &[PodId], node: &NodeName) -> Result<(), ObjectError>;

    /// Makes the ends of a node's tunnels known to all nodes: exactly these. Writes nothing where they already are.
    ///
    /// # Errors
    /// The store refuses, or has no such node.
    fn tell_vteps(&self, own: &NodeVteps) -> Result<(), ObjectError>;

    /// Makes the addresses by which a node is reached known to all nodes. Writes nothing where they already are.
    ///
    /// # Errors
    /// The store refuses, or has no such node.
    fn tell_addresses(&self, own: &NodeAddresses) -> Result<(), ObjectError>;

    /// Makes a node's own interfaces known, of which host endpoints are made. Writes nothing where they already are; a directory has no
    /// use for them.
    ///
    /// # Errors
    /// The store refuses, or has no such node.
    fn tell_interfaces(&self, _own: &NodeInterfaces) -> Result<(), ObjectError> {
        Ok(())
    }

    /// Makes the addresses of a load balancer known to all nodes, and what it cannot have.
    ///
    /// # Errors
    /// The store refuses, or somebody else speaks for the service.
    fn give(&self, given: &ServiceAddresses) -> Result<(), ObjectError>;

    /// Takes back what was said of one.
    ///
    /// # Errors
    /// The store refuses.
    fn take_back(&self, service: &ServiceId) -> Result<(), ObjectError>;

    /// Of these nodes and pods those that there are now, asked anew, as everybody says who knows of them.
    ///
    /// # Errors
    /// Somebody who would know cannot be asked, or is not understood: then nobody knows who is gone.
    fn census(&self, nodes: &BTreeSet<NodeName>, pods: &BTreeSet<PodId>) -> Result<Census, ObjectError>;

    /// The node's own networks for pods (`spec.podCIDRs`), asked of who knows them; `None`: they are heard with the node itself.
    ///
    /// # Errors
    /// Whoever knows cannot be asked.
    fn pod_cidrs(&self, _node: &NodeName) -> Result<Option<Vec<Cidr>>, ObjectError> {
        Ok(None)
    }

    /// Calico's object of this kind of which there is one for the cluster, named `default`.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn default_of(&self, kind: &str) -> Result<Option<Object>, ObjectError>;

    /// All objects of a kind that people write, as they stand there; nodes, too, of which nothing is ever written.
    ///
    /// # Errors
    /// The store cannot be asked, or one of them cannot be read.
    fn settings(&self, kind: Setting) -> Result<Vec<Object>, ObjectError>;

    /// Makes these what they are to be, in this order, each only if it is as it was read. In etcd 64 at once, in a directory all of one
    /// file.
    ///
    /// # Errors
    /// [`ObjectError::Conflict`] if one is another meanwhile: none after it is written.
    fn set(&self, changes: &[Change]) -> Result<(), ObjectError>;

    /// All nodes, pods and pools, asked anew: what is read for a command that somebody gave, not again and again.
    ///
    /// # Errors
    /// As [`Shared::census`].
    fn survey(&self) -> Result<Survey, ObjectError>;

    /// Makes host endpoints of nodes what they are to be ([`crate::hosts`]), and says what was done; a directory has none by
    /// themselves.
    ///
    /// # Errors
    /// The store refuses one; what is left is done by the next call.
    fn keep_hosts(&self, _wanted: &Wanted) -> Result<Vec<String>, ObjectError> {
        Ok(Vec::new())
    }

    /// Sees to it that there are ClusterInformation and KubeControllersConfiguration `default`, for which calicoctl asks every cluster.
    /// The kinds of those that were made now; a directory needs none, and in etcd it is for who installs Calico's objects to say that
    /// they are whole.
    ///
    /// # Errors
    /// The store refuses.
    fn make_defaults(&self) -> Result<Vec<&'static str>, ObjectError> {
        Ok(Vec::new())
    }

    /// What is asked of a node's BGP (CalicoNodeStatus), as it was heard last; `None`: nobody can ask it here.
    ///
    /// # Errors
    /// The store does not say it.
    fn status_requests(&self, _node: &NodeName) -> Result<Option<Vec<StatusRequest>>, ObjectError> {
        Ok(None)
    }

    /// Answers one, at the object itself. One that is gone needs no answer.
    ///
    /// # Errors
    /// The store refuses.
    fn answer_status(&self, _request: &StatusRequest, _status: &Value) -> Result<(), ObjectError> {
        Ok(())
    }

    /// Passwords that Secrets hold, as they were heard last; `None`: there are no Secrets here.
    fn passwords(&self, _asked: &BTreeSet<SecretKey>) -> Option<Passwords> {
        None
    }

    /// Whether somebody changes Calico's objects as a whole: nothing of them may be written.
    fn is_locked(&self) -> bool {
        false
    }
}

/// Passwords, each by where it is, or why there is none.
pub type Passwords = BTreeMap<SecretKey, Result<Password, Lack>>;

/// Why there is no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// There is none.
    Is(String),
    /// Nobody knows yet, for this reason perhaps: what was known before counts.
    Unknown(Option<String>),
}

/// What a pod's own cluster says of it; `None`: the datastore tells of its pods, or nobody knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Its labels.
    pub labels: Option<Labels>,
    /// What it asks of its addresses.
    pub asks: Option<PodAsks>,
}

/// The store of one agent.
pub type Store = Arc<dyn Shared>;

impl Shared for Objects {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Object>, ObjectError> {
        Self::get(self, kind, name)
    }

    fn list(&self, kind: &str) -> Result<Vec<Object>, ObjectError> {
        Self::list(self, kind)
    }

    fn create(&self, object: &Object) -> Result<Object, ObjectError> {
        let mut fresh = object.clone();
        fresh.metadata.resource_version = None;
        self.write(&fresh)
    }

    fn update(&self, object: &Object) -> Result<Object, ObjectError> {
        let mut known = object.clone();
        known.metadata.resource_version.get_or_insert_with(|| "0".to_owned());
        self.write(&known)
    }

    /// All or none, unless the machine crashes between.
    fn write_all(&self, objects: &[Object]) -> Result<Vec<Object>, ObjectError> {
        Self::write_all(self, objects)
    }

    fn delete(&self, kind: &str, name: &str, version: Option<&str>) -> Result<bool, ObjectError> {
        Self::delete(self, kind, name, version)
    }

    fn publish(&self, pods: &[(WorkloadAddress, Attachment)]) -> Result<(), ObjectError> {
        self.publish_all(&pods.iter().map(|(address, _)| address.clone()).collect::<Vec<_>>())
    }

    fn withdraw(&self, pods: &[PodId], node: &NodeName) -> Result<(), ObjectError> {
        pods.iter().try_for_each(|pod| Self::withdraw(self, pod, node))
    }

    fn tell_vteps(&self, own: &NodeVteps) -> Result<(), ObjectError> {
        vtep::tell(self, own)
    }

    fn tell_addresses(&self, own: &NodeAddresses) -> Result<(), ObjectError> {
        node_addresses::tell(self, own)
    }

    fn give(&self, given: &ServiceAddresses) -> Result<(), ObjectError> {
        given::tell(self, given)
    }

    fn take_back(&self, service: &ServiceId) -> Result<(), ObjectError> {
        given::take_back(self, service)
    }

    fn census(&self, nodes: &BTreeSet<NodeName>, pods: &BTreeSet<PodId>) -> Result<Census, ObjectError> {
        census::of_directory(self.manifests(), nodes, pods)
    }

    fn default_of(&self, kind: &str) -> Result<Option<Object>, ObjectError> {
        census::default_of(self.manifests(), kind)
    }

    fn settings(&self, kind: Setting) -> Result<Vec<Object>, ObjectError> {
        settings::of_directory(self.manifests(), kind)
    }

    fn set(&self, changes: &[Change]) -> Result<(), ObjectError> {
        settings::set(self, changes)
    }

    fn survey(&self) -> Result<Survey, ObjectError> {
        census::survey_of(self.manifests())
    }
}
