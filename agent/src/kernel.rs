//! What the agent asks of the dataplane: the seam at which its own tests put a fake.
//! In: `Desired`. Out: `Applied`, and whether an endpoint is in force.
//! Invariant: [`dataplane::Dataplane`] does exactly what these calls say.
//! Never: more than the agent needs.

use calc::Desired;
use dataplane::{Applied, Dataplane, Question, ReportError, TwinAnswer, TwinError};
use model::AttachmentId;
use serde_json::Value;

/// The kernel's side of a node.
pub trait Kernel {
    /// Makes the kernel so.
    fn apply(&mut self, desired: &Desired) -> Applied;
    /// Takes away what the last `apply` replaced.
    fn settle(&mut self);
    /// Whether an endpoint is completely in force.
    fn in_force(&self, id: &AttachmentId) -> bool;
    /// Deletes expired flows.
    fn sweep_conntrack(&mut self) -> usize;
    /// Asks the dry twin.
    fn explain(&self, question: &Question) -> Result<TwinAnswer, TwinError>;
    /// The rows of a table.
    fn report(&self, table: &str) -> Result<Value, ReportError>;
}

impl Kernel for Dataplane {
    fn apply(&mut self, desired: &Desired) -> Applied {
        self.apply(desired)
    }

    fn settle(&mut self) {
        self.settle();
    }

    fn in_force(&self, id: &AttachmentId) -> bool {
        self.in_force(id)
    }

    fn sweep_conntrack(&mut self) -> usize {
        self.sweep_conntrack()
    }

    fn explain(&self, question: &Question) -> Result<TwinAnswer, TwinError> {
        self.explain(question)
    }

    fn report(&self, table: &str) -> Result<Value, ReportError> {
        self.report(table)
    }
}
