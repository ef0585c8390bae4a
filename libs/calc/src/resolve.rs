//! Resolves a World into what this node's kernel should hold.
//! In: [`InSync`]. Out: [`Desired`].
//! Invariant: a rule set holds everything the endpoint itself resolves; a class everything a peer is asked.
//! Never: an address without a class, an endpoint without a rule set.

use crate::{Desired, InSync};

/// What this node's kernel should hold.
#[must_use]
pub fn desired(world: InSync<'_>) -> Desired {
    let _ = world;
    todo!()
}
