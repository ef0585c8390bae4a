//! Staged policies of Calico: a policy of another kind with an action, only tried.
//! In: a Staged(Global|Kubernetes)NetworkPolicy. Out: the [`Policy`] that it stages, under its own name and with its stage.
//! Invariant: what is not `Delete` is read as the policy that it would be, by that one's own converter.
//! Never: a policy that is enforced.

use super::{
    calico::{self, Group},
    field::{InvalidField, Meta, spec},
    kind::policy_id,
    networkpolicy,
};
use model::{Layer, Order, Policy, PolicyId, PolicyKind, PolicyTypes, Selector, Stage, TierName};
use serde_json::{Map, Value};

/// What a staged policy asks for (api/pkg/apis/projectcalico/v3, StagedAction).
enum Action {
    Stage(Stage),
    /// A recommendation that was set aside: it is as good as absent.
    Ignore,
}

/// `None`: it is to be ignored.
pub(super) fn convert(
    kind: PolicyKind,
    group: Group,
    meta: &Meta,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<Option<Policy>, InvalidField> {
    let mut fields = spec(object)?.as_object().cloned().unwrap_or_default();
    let stage = match action(fields.remove("stagedAction").as_ref())? {
        Action::Ignore => return Ok(None),
        Action::Stage(stage) => stage,
    };
    let id = policy_id(kind, meta);
    let policy = match stage {
        Stage::Delete => removal(id.clone(), &fields)?,
        Stage::Set => would_be(group, meta, &id, with_spec(object, fields), unreadable)?,
    };
    Ok(Some(Policy { id, stage: Some(stage), ..policy }))
}

/// `Learn` is of a tool that still writes the policy: what it has written so far is tried.
fn action(written: Option<&Value>) -> Result<Action, InvalidField> {
    match written.map(|value| value.as_str()) {
        None | Some(Some("" | "Set" | "Learn")) => Ok(Action::Stage(Stage::Set)),
        Some(Some("Delete")) => Ok(Action::Stage(Stage::Delete)),
        Some(Some("Ignore")) => Ok(Action::Ignore),
        Some(_) => Err(InvalidField::new("spec.stagedAction", "is none of Set, Delete, Learn and Ignore")),
    }
}

fn with_spec(object: &Value, fields: Map<String, Value>) -> Value {
    let mut object = object.clone();
    object["spec"] = Value::Object(fields);
    object
}

fn would_be(
    group: Group,
    meta: &Meta,
    id: &PolicyId,
    object: Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<Policy, InvalidField> {
    match id.kind.enforced() {
        PolicyKind::KubernetesNetworkPolicy => networkpolicy::convert(meta, &object, unreadable),
        _ => calico::policy::convert(id.enforced(), group, &object, unreadable),
    }
}

/// Its name says which policy goes; rules beside that would say nothing (libcalico-go/lib/validator/v3).
fn removal(id: PolicyId, fields: &Map<String, Value>) -> Result<Policy, InvalidField> {
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    };
    // Calico's API fills types in.
    let may_stand = |name: &str| ["tier", "types"].contains(&name);
    if let Some((name, _)) = fields.iter().find(|(name, value)| !may_stand(name) && !says_nothing(value)) {
        let reason = "says nothing where stagedAction is Delete: the policy of this name goes; remove it here";
        return Err(InvalidField::new(&format!("spec.{name}"), reason));
    }
    Ok(Policy {
        id,
        tier: TierName::DEFAULT.into(),
        order: Order::Unset,
        layer: Layer::Ordinary { on_forward: false },
        stage: None,
        subject: Selector::All.into(),
        types: PolicyTypes { ingress: true, egress: true },
        ingress: [].into(),
        egress: [].into(),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Converted, said,
            tests::{converted, known, refusal},
        },
        *,
    };
    use model::Resource;
    use std::sync::Arc;

    fn text(api_version: &str, kind: &str, spec: &str) -> String {
        format!("{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: p, namespace: shop}}, spec: {spec}}}")
    }

    fn policy(kind: &str, spec: &str) -> Policy {
        match known(&text("projectcalico.org/v3", kind, spec)) {
            (Resource::Policy(policy), unreadable) if unreadable.is_empty() => Arc::unwrap_or_clone(policy),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn cal_13_a_staged_policy_is_the_policy_that_it_stages_under_its_own_name() {
        let calico = "{tier: security, order: 3, selector: app == 'db', ingress: [{action: Deny}]}";
        let kubernetes = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}]}]}";
        for (kind, enforced, group, spec) in [
            ("StagedNetworkPolicy", "NetworkPolicy", "projectcalico.org/v3", calico),
            ("StagedGlobalNetworkPolicy", "GlobalNetworkPolicy", "projectcalico.org/v3", calico),
            ("StagedKubernetesNetworkPolicy", "NetworkPolicy", "networking.k8s.io/v1", kubernetes),
        ] {
            let staged = policy(kind, spec);
            let Resource::Policy(written) = known(&text(group, enforced, spec)).0 else { panic!("no policy") };
            assert_eq!((staged.stage, staged.id.to_string().contains("Staged")), (Some(Stage::Set), true), "{kind}");
            assert_eq!(staged.id.enforced(), written.id, "{kind}");
            assert_eq!(said::rules(&staged.ingress), said::rules(&written.ingress), "{kind}");
            let id = staged.id.clone();
            assert_eq!(Policy { id, stage: staged.stage, ..Policy::clone(&written) }, staged, "{kind}");
        }
    }

    #[test]
    fn cal_13_a_staged_policy_is_read_as_calico_stores_it() {
        let stored = text(
            "crd.projectcalico.org/v1",
            "StagedGlobalNetworkPolicy",
            "{selector: all(), egress: [{action: Deny}]}",
        );
        let Resource::Policy(policy) = known(&stored).0 else { panic!("no policy") };
        assert_eq!((policy.stage, policy.types), (Some(Stage::Set), PolicyTypes { ingress: true, egress: true }));
    }

    #[test]
    fn cal_13_delete_stages_the_end_of_the_policy_of_its_name_and_says_nothing_else() {
        for spec in [
            "{stagedAction: Delete}",
            "{stagedAction: Delete, tier: security, types: [Ingress], selector: '', ingress: []}",
        ] {
            let policy = policy("StagedNetworkPolicy", spec);
            assert_eq!((policy.stage, policy.ingress.len()), (Some(Stage::Delete), 0), "{spec}");
        }
        assert_eq!(
            policy("StagedKubernetesNetworkPolicy", "{stagedAction: Delete, podSelector: {}}").stage,
            Some(Stage::Delete)
        );
        let with_rules =
            text("projectcalico.org/v3", "StagedNetworkPolicy", "{stagedAction: Delete, ingress: [{action: Allow}]}");
        assert!(refusal(&with_rules).starts_with("spec.ingress: says nothing where stagedAction is Delete"));
    }

    #[test]
    fn cal_13_learn_is_tried_as_far_as_it_is_written_ignore_is_absent_and_other_actions_are_refused() {
        assert_eq!(policy("StagedGlobalNetworkPolicy", "{stagedAction: Learn}").stage, Some(Stage::Set));
        let ignored =
            text("projectcalico.org/v3", "StagedGlobalNetworkPolicy", "{stagedAction: Ignore, selector: all()}");
        assert!(matches!(converted(&ignored), Converted::Foreign { .. }));
        let misspelt = text("projectcalico.org/v3", "StagedGlobalNetworkPolicy", "{stagedAction: Remove}");
        assert!(refusal(&misspelt).starts_with("spec.stagedAction: "));
        let unknown = text("projectcalico.org/v3", "StagedGlobalNetworkPolicy", "{ingres: []}");
        assert!(refusal(&unknown).starts_with("spec"), "what a policy refuses a staged one refuses");
    }
}
