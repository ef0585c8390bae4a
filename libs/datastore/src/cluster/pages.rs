//! All objects of a kind as the API server has them now, page by page.
//! In: a kind. Out: each object as the code that reads manifests expects it.
//! Invariant: all are of one revision; a page that fails is an error, and no end.
//! Never: holds more than a page.

use super::{connection::Unanswered, kinds::is_absent, objects::ClusterObjects};
use crate::ObjectError;
use kube::{
    Api, Error,
    api::ListParams,
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};

/// Objects of one page.
const PAGE: u32 = 500;

/// A kind that every cluster has, or one of which there is no object where a cluster lacks it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    Fails,
    IsNone,
}

impl ClusterObjects {
    /// Each object of a kind.
    pub(super) fn each(
        &self,
        of: &ApiResource,
        lack: Lack,
        mut hear: impl FnMut(Value) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let api: Api<DynamicObject> = Api::all_with(self.connection().client.clone(), of);
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = match self.connection().ask(api.list(&parameters)) {
                Err(Unanswered::Refused(Error::Api(status))) if lack == Lack::IsNone && is_absent(&status) => {
                    return Ok(());
                }
                page => page.map_err(|unanswered| self.failed((&of.kind, ""), unanswered.to_string()))?,
            };
            page.items.into_iter().try_for_each(|found| hear(typed(of, found)))?;
            parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if parameters.continue_token.is_none() {
                return Ok(());
            }
        }
    }
}

/// With its kind, which the members of a list do not say.
pub(super) fn typed(of: &ApiResource, found: DynamicObject) -> Value {
    let mut object = found.data;
    object["apiVersion"] = of.api_version.as_str().into();
    object["kind"] = of.kind.as_str().into();
    object["metadata"] = json!(found.metadata);
    object
}
