//! Who lives, by the API server's own word at this moment.
//! In: names of nodes and pods. Out: those that there are.
//! Invariant: only a 404 is an absence.
//! Never: holds a pod whole for longer than its page.

use super::{connection::Unanswered, kinds, objects::ClusterObjects, pages::Lack, pods};
use crate::{
    Object, ObjectError,
    census::{DEFAULT, Survey, hear},
    convert::{Converted, convert},
};
use futures::future::join_all;
use ipam::audit::Census;
use kube::{Api, Error, core::DynamicObject};
use model::{NodeName, PodId, Resource};
use std::collections::BTreeSet;

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
                let read = pods::read(found).map_err(|reason| self.failed(("Pod", &name), reason))?;
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
        for (of, lack) in [(kinds::nodes(), Lack::Fails), (kinds::pods(), Lack::Fails), (pools, Lack::IsNone)] {
            self.each(&of, lack, |object| match convert(&object) {
                // What is wrong with its other parts is said elsewhere.
                Converted::Known { resource, .. } => {
                    survey.hear(&resource);
                    Ok(())
                }
                Converted::Refused { error, .. } | Converted::Nameless { error } => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    Err(self.failed((&of.kind, name), error.to_string()))
                }
                Converted::NotEnforced { .. } | Converted::Foreign { .. } => Ok(()),
            })?;
        }
        Ok(survey)
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
