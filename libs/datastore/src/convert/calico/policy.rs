//! NetworkPolicy and GlobalNetworkPolicy of Calico.
//! In: their spec (api/pkg/apis/projectcalico/v3). Out: [`Policy`], with the layer that it is for.
//! Invariant: the subject is Calico's own selector (libcalico-go/lib/backend/syncersv1/updateprocessors).
//! Never: enforces on workloads what is meant for host endpoints.

use super::{
    super::field::{InvalidField, read, spec},
    Group, expression, limit, rule, tier,
};
use crate::crds::{checks, shapes};
use model::{
    Direction, Layer, NamespaceName, Order, Policy, PolicyId, PolicyKind, PolicyTypes, Selector, TierName,
    label::SERVICE_ACCOUNT,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Whom a policy concerns, and its rules.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = checks::of(checks::POLICY)))]
pub(crate) struct Spec {
    /// The tier it stands in; default, if nothing stands here.
    tier: Option<String>,
    /// Policies of a tier are asked in rising order; one without comes after all others.
    order: Option<f64>,
    /// The endpoints it concerns, by their labels: app == 'db' && has(role).
    #[schemars(length(max = Selector::LENGTH_MAX), extend("x-kubernetes-validations" = checks::of(checks::SELECTOR)))]
    selector: Option<String>,
    /// The pods it concerns, by the labels of their namespaces.
    #[schemars(length(max = Selector::LENGTH_MAX), extend("x-kubernetes-validations" = checks::of(checks::SELECTOR)))]
    namespace_selector: Option<String>,
    /// The pods it concerns, by the labels of their service accounts.
    #[schemars(length(max = Selector::LENGTH_MAX), extend("x-kubernetes-validations" = checks::of(checks::SELECTOR)))]
    service_account_selector: Option<String>,
    /// The directions in which it is asked: Ingress, Egress.
    #[schemars(with = "Option<Vec<shapes::Direction>>", length(max = 2))]
    types: Option<Vec<String>>,
    /// Rules for what the endpoints receive; the first that matches decides.
    #[schemars(with = "Option<Vec<rule::Written>>", length(max = limit::RULES_MAX))]
    ingress: Option<Vec<Value>>,
    /// Rules for what the endpoints send; the first that matches decides.
    #[schemars(with = "Option<Vec<rule::Written>>", length(max = limit::RULES_MAX))]
    egress: Option<Vec<Value>>,
    /// At host endpoints: before connections are tracked.
    #[serde(default)]
    do_not_track: bool,
    /// At host endpoints: before services are translated.
    #[serde(default, rename = "preDNAT")]
    pre_dnat: bool,
    /// At host endpoints: for what is led through the node, too.
    #[serde(default)]
    apply_on_forward: bool,
    /// Hints for Calico.
    #[serde(rename = "performanceHints")]
    _performance_hints: Option<Value>,
}

pub(in super::super) fn convert(
    id: PolicyId,
    group: Group,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<Policy, InvalidField> {
    limit::check(spec(object)?)?;
    let spec: Spec = read("spec", object)?;
    let namespace = (id.kind == PolicyKind::NetworkPolicy).then(|| id.namespace.clone());
    match &namespace {
        Some(_) => has_no_global_fields(&spec)?,
        None => host_fields_agree(&spec)?,
    }
    let types = types(group, &spec)?;
    let mut rules = |direction, applies: bool, written: &Option<Vec<Value>>| {
        // A section whose direction is not among the types has no effect (CAL-6).
        let written = written.as_deref().filter(|_| applies).unwrap_or_default();
        rule::rules(direction, written, namespace.as_ref(), unreadable)
    };
    let ingress = rules(Direction::Ingress, types.ingress, &spec.ingress);
    let egress = rules(Direction::Egress, types.egress, &spec.egress);
    Ok(Policy {
        tier: tier::name(
            "spec.tier",
            spec.tier.as_deref().filter(|name| !name.is_empty()).unwrap_or(TierName::DEFAULT),
        )?,
        order: order(spec.order)?,
        subject: subject(&spec, namespace.as_ref())?.into(),
        id,
        layer: layer(&spec),
        stage: None,
        types,
        ingress: ingress.into(),
        egress: egress.into(),
    })
}

/// Whether it applies on forward, a layer for host endpoints alone says by itself.
fn layer(spec: &Spec) -> Layer {
    match spec {
        Spec { do_not_track: true, .. } => Layer::Untracked,
        Spec { pre_dnat: true, .. } => Layer::PreDnat,
        Spec { apply_on_forward, .. } => Layer::Ordinary { on_forward: *apply_on_forward },
    }
}

/// Not given: after all others. YAML has infinities, Calico's API has none, and a deny must not come last for one.
pub(super) fn order(written: Option<f64>) -> Result<Order, InvalidField> {
    let Some(number) = written else { return Ok(Order::Unset) };
    Order::at(number).ok_or_else(|| InvalidField::new("spec.order", format!("{number} is no finite number")))
}

fn has_no_global_fields(spec: &Spec) -> Result<(), InvalidField> {
    let given = [
        ("spec.namespaceSelector", spec.namespace_selector.is_some()),
        ("spec.doNotTrack", spec.do_not_track),
        ("spec.preDNAT", spec.pre_dnat),
        ("spec.applyOnForward", spec.apply_on_forward),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((path, _)) => Err(InvalidField::new(path, "stands in a GlobalNetworkPolicy only; remove it here")),
        None => Ok(()),
    }
}

/// HEP-8 to HEP-10.
fn host_fields_agree(spec: &Spec) -> Result<(), InvalidField> {
    let says_egress = |types: &Vec<String>| types.iter().any(|name| name == "Egress");
    let egress =
        spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) || spec.types.as_ref().is_some_and(says_egress);
    if spec.do_not_track && spec.pre_dnat {
        Err(InvalidField::new("spec.preDNAT", "cannot be true together with doNotTrack"))
    } else if spec.pre_dnat && egress {
        Err(InvalidField::new("spec.preDNAT", "is for ingress alone; put the egress rules into another policy"))
    } else if (spec.do_not_track || spec.pre_dnat) && !spec.apply_on_forward {
        Err(InvalidField::new("spec.applyOnForward", "must be true where doNotTrack or preDNAT is"))
    } else {
        Ok(())
    }
}

/// CAL-5. Calico's API fills in the types of what is written through it; what lies in the store without any is asked in
/// both directions (felix/calc/policy_sorter.go).
fn types(group: Group, spec: &Spec) -> Result<PolicyTypes, InvalidField> {
    let has = |rules: &Option<Vec<Value>>| rules.as_ref().is_some_and(|rules| !rules.is_empty());
    let (ingress, egress) = (has(&spec.ingress), has(&spec.egress));
    let written = spec.types.as_deref().unwrap_or_default();
    match (written, group) {
        ([], Group::Api) => Ok(PolicyTypes { ingress: ingress || !egress, egress }),
        ([], Group::Stored) => Ok(PolicyTypes { ingress: true, egress: true }),
        (written, _) => super::super::field::policy_types("spec.types", written),
    }
}

fn subject(spec: &Spec, namespace: Option<&NamespaceName>) -> Result<Selector, InvalidField> {
    let own = expression::given("spec.selector", spec.selector.as_deref())?;
    let namespaces = expression::given("spec.namespaceSelector", spec.namespace_selector.as_deref())?;
    let accounts = expression::given("spec.serviceAccountSelector", spec.service_account_selector.as_deref())?;
    // Said of a cluster's endpoints, `all()` means those that run as an account at all.
    let accounts = accounts.map(|selector| match (&selector, namespace) {
        (Selector::All, None) => Selector::Has(SERVICE_ACCOUNT.to_owned()),
        (selector, _) => selector.of_accounts(),
    });
    let scope = namespace.map(Selector::in_namespace).or(namespaces.map(|selector| selector.of_namespaces()));
    Ok(Selector::all_of([own, scope, accounts].into_iter().flatten().collect()))
}
