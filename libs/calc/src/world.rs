//! The World: the last known state of everything this node was told.
//! In: datastore updates, attachments of the CNI, this host's addresses. Out: [`InSync`], the only way to a Desired.
//! Invariant: an update replaces; nothing depends on the order in which things were told.
//! Never: forgets an object because another is missing.

use model::{Attachment, AttachmentId, NodeName, Update};
use std::{collections::BTreeSet, net::IpAddr};

/// The last known state.
#[derive(Clone, Debug)]
pub struct World {}

/// Proof that every watched kind has delivered its first full list.
#[derive(Clone, Copy, Debug)]
pub struct InSync<'a>(pub(crate) &'a World);

impl World {
    /// An empty world, seen from `node`. `keep_established`: allowed flows outlive a new deny.
    #[must_use]
    pub fn new(node: NodeName, keep_established: bool) -> Self {
        let _ = (node, keep_established);
        todo!()
    }

    /// Takes in one change of the datastore.
    pub fn apply(&mut self, update: Update) {
        let _ = update;
        todo!()
    }

    /// Takes in, or replaces, an attachment of this node.
    pub fn attach(&mut self, attachment: Attachment) {
        let _ = attachment;
        todo!()
    }

    /// Forgets an attachment.
    pub fn detach(&mut self, id: &AttachmentId) -> Option<Attachment> {
        let _ = id;
        todo!()
    }

    /// The addresses this host has now, loopback and link-local ones left out.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        let _ = addresses;
        todo!()
    }

    /// `Some` once the datastore has said everything it has.
    #[must_use]
    pub fn in_sync(&self) -> Option<InSync<'_>> {
        todo!()
    }

    /// What the reference evaluator sees.
    #[must_use]
    pub fn view(&self) -> policy::View {
        todo!()
    }
}
