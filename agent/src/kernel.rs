//! What the agent asks of the dataplane: the seam at which its own tests put a fake.
//! In: the latest `Desired`. Out: `Applied`, and whether an endpoint is in force.
//! Invariant: [`dataplane::Dataplane`] does exactly what these calls say.
//! Never: more than the agent needs.

use calc::Latest;
use cni::name::host_interface_alias;
use dataplane::{
    Applied, Dataplane, Extent, Filled, Looked, Question, ReportError, ServiceCounts, Standing, StoreError,
    TrackedFlow, Tried, TwinAnswer, TwinError,
};
use model::{Attachment, AttachmentId, ServicePortId};
use netlink::{Link, Socket};
use serde_json::Value;
use service::Frontend;

/// How full the tables are.
#[derive(Clone, Debug, Default)]
pub struct Fullness {
    /// The maps that commits fill.
    pub maps: Vec<Filled>,
    /// Spans whose rules share one counter.
    pub uncounted: usize,
}

/// The kernel's side of a node.
pub trait Kernel {
    /// Makes the kernel so.
    fn apply(&mut self, desired: Latest<'_>) -> Applied;
    /// Puts back what other hands changed of it.
    fn look(&mut self, desired: Latest<'_>, extent: Extent) -> Looked;
    /// Takes away what was replaced and no packet can see any more. Whether something is left.
    fn sweep(&mut self) -> bool;
    /// Moves one program to the way of attachment that it shall have in the end. `false`: all are there.
    fn upgrade(&mut self) -> bool;
    /// Whether an endpoint is completely in force.
    fn in_force(&self, id: &AttachmentId) -> bool;
    /// Asks the dry twin.
    fn explain(&self, question: &Question) -> Result<TwinAnswer, TwinError>;
    /// How much of the maps commits have filled.
    fn filled(&self) -> Fullness {
        Fullness::default()
    }
    /// Tracked flows of pods.
    fn tracked(&self) -> Result<Vec<TrackedFlow>, StoreError> {
        Ok(Vec::new())
    }
    /// As whom this node stands for its pods outside of all pools.
    fn standing(&self, _v4: bool) -> Option<Standing> {
        None
    }
    /// What was counted of a service port.
    fn counts_of(&self, _: &ServicePortId) -> ServiceCounts {
        ServiceCounts::default()
    }
    /// Whether the tables lead a frontend where it should lead.
    fn leads(&self, _: &Frontend) -> bool {
        true
    }
    /// Whether a revision in force has this service port.
    fn serves(&self, _: &ServicePortId) -> bool {
        false
    }
    /// Whether services fit beside those in force.
    fn has_room_for_services(&self, _: Latest<'_>) -> bool {
        true
    }
    /// What staged policies would have made of new flows.
    fn tried(&self) -> Tried {
        Tried::default()
    }
    /// What becomes of the node's own sockets that ask for services.
    fn sockets(&self) -> String {
        String::new()
    }
    /// Whether processes of the node answer who is outside in a service's name.
    fn answers(&self) -> bool {
        false
    }
    /// The rows of a table.
    fn report(&self, table: &str) -> Result<Value, ReportError>;
    /// Deletes the veth pair of an attachment, if its host side is still there and still this attachment's.
    fn unwire(&mut self, attachment: &Attachment) -> Result<(), netlink::Error>;
}

impl Kernel for Dataplane {
    fn apply(&mut self, desired: Latest<'_>) -> Applied {
        self.apply(desired)
    }

    fn look(&mut self, desired: Latest<'_>, extent: Extent) -> Looked {
        self.look(desired, extent)
    }

    fn sweep(&mut self) -> bool {
        self.sweep()
    }

    fn upgrade(&mut self) -> bool {
        self.upgrade()
    }

    fn in_force(&self, id: &AttachmentId) -> bool {
        self.in_force(id)
    }

    fn explain(&self, question: &Question) -> Result<TwinAnswer, TwinError> {
        self.explain(question)
    }

    fn filled(&self) -> Fullness {
        Fullness { maps: self.filled(), uncounted: self.uncounted() }
    }

    fn tracked(&self) -> Result<Vec<TrackedFlow>, StoreError> {
        self.tracked()
    }

    fn standing(&self, v4: bool) -> Option<Standing> {
        self.standing(v4)
    }

    fn counts_of(&self, port: &ServicePortId) -> ServiceCounts {
        self.counts_of(port)
    }

    fn leads(&self, frontend: &Frontend) -> bool {
        self.leads(frontend)
    }

    fn serves(&self, port: &ServicePortId) -> bool {
        self.serves(port)
    }

    fn has_room_for_services(&self, desired: Latest<'_>) -> bool {
        self.has_room_for_services(desired)
    }

    fn tried(&self) -> Tried {
        self.tried().unwrap_or_else(|error| {
            tracing::debug!("what staged policies would do is not counted: {error}");
            Tried::default()
        })
    }

    fn sockets(&self) -> String {
        self.sockets()
    }

    fn answers(&self) -> bool {
        self.answers()
    }

    fn report(&self, table: &str) -> Result<Value, ReportError> {
        self.report(table)
    }

    fn unwire(&mut self, attachment: &Attachment) -> Result<(), netlink::Error> {
        let mut socket = Socket::open()?;
        // The alias says whose the link is: a new container of the same pod has one of the same name. One without is what
        // an ADD that died has left; the journal knows nobody else there.
        let ours = |link: &Link| {
            link.kind == "veth" && (link.alias.is_empty() || link.alias == host_interface_alias(&attachment.id))
        };
        match socket.link(&attachment.host_interface)?.filter(ours) {
            Some(link) => socket.delete_link(link.index).map(drop),
            None => Ok(()),
        }
    }
}
