//! Who lives, by the API server's own word at this moment.
//! In: names of nodes and pods. Out: those that there are.
//! Invariant: only a 404 is an absence.
//! Never: holds a pod whole for longer than its page.

use super::{
    connection::Unanswered,
    kinds::{self, is_absent},
    objects::ClusterObjects,
    pods,
};
use crate::{
    Object, ObjectError,
    census::{DEFAULT, Survey, hear},
    convert::{Converted, convert},
};
use futures::future::join_all;
use ipam::audit::Census;
use kube::{
    Api, Error,
    api::ListParams,
    core::{ApiResource, DynamicObject},
};
use model::{NodeName, PodId, Resource};
use serde_json::json;
use std::collections::BTreeSet;

/// Objects of one page.
const PAGE: u32 = 500;
/// Asked for together: the server answers all within the time of one.
const AT_ONCE: usize = 32;

impl ClusterObjects {
    pub(super) fn census_of(&self, nodes: &BTreeSet<NodeName>, pods: &BTreeSet<PodId>) -> Result<Census, ObjectError> {
        let mut census = Census::default();
        let client = &self.connection().client;
        let all_nodes: Vec<_> = nodes.iter().collect();
        for some in all_nodes.chunks(AT_ONCE) {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kinds::nodes());
            let asked = some.iter().map(|node| api.get_opt(&node.0));
            for (node, found) in some.iter().zip(self.answers("Node", join_all(asked))?) {
                if self.answered(("Node", &node.0), found)?.is_some() {
                    census.nodes.insert((*node).clone());
                }
            }
        }
        let all_pods: Vec<_> = pods.iter().collect();
        for some in all_pods.chunks(AT_ONCE) {
            let get = async |pod: &PodId| {
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &pod.namespace.0, &kinds::pods());
                api.get_opt(&pod.name).await
            };
            let asked = some.iter().map(|pod| get(pod));
            for (pod, found) in some.iter().zip(self.answers("Pod", join_all(asked))?) {
                let name = pod.to_string();
                let Some(found) = self.answered(("Pod", &name), found)? else { continue };
                let read = pods::read(&found).map_err(|reason| self.failed(("Pod", &name), reason))?;
                hear(&mut census, &Resource::Pod(read));
            }
        }
        Ok(census)
    }

    pub(super) fn one_of(&self, kind: &str) -> Result<Option<Object>, ObjectError> {
        crate::Shared::get(self, kind, DEFAULT)
    }

    pub(super) fn everybody(&self) -> Result<Survey, ObjectError> {
        let mut survey = Survey::default();
        let pools = self.api("IPPool")?.1;
        for (of, is_optional) in [(kinds::nodes(), false), (kinds::pods(), false), (pools, true)] {
            self.list_pages(&of, is_optional, &mut survey)?;
        }
        Ok(survey)
    }

    fn list_pages(&self, of: &ApiResource, is_optional: bool, survey: &mut Survey) -> Result<(), ObjectError> {
        let api: Api<DynamicObject> = Api::all_with(self.connection().client.clone(), of);
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = match self.connection().ask(api.list(&parameters)) {
                Err(Unanswered::Refused(Error::Api(status))) if is_optional && is_absent(&status) => return Ok(()),
                page => page.map_err(|unanswered| self.failed((&of.kind, ""), unanswered.to_string()))?,
            };
            for found in page.items {
                let name = found.metadata.name.clone().unwrap_or_default();
                let mut object = found.data;
                object["apiVersion"] = of.api_version.as_str().into();
                object["kind"] = of.kind.as_str().into();
                object["metadata"] = json!(found.metadata);
                // What is wrong with its other parts is said elsewhere.
                match convert(&object) {
                    Converted::Known { resource, .. } => survey.hear(&resource),
                    Converted::Refused { error, .. } | Converted::Nameless { error } => {
                        return Err(self.failed((&of.kind, &name), error.to_string()));
                    }
                    Converted::NotEnforced { .. } | Converted::Foreign { .. } => {}
                }
            }
            parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if parameters.continue_token.is_none() {
                return Ok(());
            }
        }
    }

    fn answers<T>(
        &self,
        kind: &str,
        asked: impl Future<Output = Vec<Result<T, Error>>>,
    ) -> Result<Vec<Result<T, Error>>, ObjectError> {
        let answers = self.connection().ask(async { Ok::<_, Error>(asked.await) });
        answers.map_err(|unanswered| self.failed((kind, ""), unanswered.to_string()))
    }

    fn answered<T>(&self, what: (&str, &str), answer: Result<T, Error>) -> Result<T, ObjectError> {
        answer.map_err(|error| self.failed(what, Unanswered::Refused(error).to_string()))
    }
}
