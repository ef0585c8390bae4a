//! One end of a rule of Calico's: nets, selectors, accounts and ports.
//! In: a `source` or `destination`. Out: [`EntityMatch`].
//! Invariant: selectors are joined as Calico joins them (libcalico-go/lib/backend/syncersv1/updateprocessors/rules.go):
//! any of them, the negated one too, keeps a namespaced policy's rule within its namespace (CAL-32).
//! Never: reads on past a field it does not know: that would widen an allow.

use super::{
    super::{
        field::{InvalidField, read_at},
        port,
    },
    expression, limit, service,
};
use crate::crds::{checks, shapes};
use model::{Cidr, EntityMatch, NamespaceName, Selector};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::{net::IpAddr, sync::Arc};

/// One end of a connection.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = checks::of(checks::ENTITY)))]
pub(super) struct Entity {
    /// In one of these networks.
    #[schemars(with = "Option<Vec<shapes::Net>>", length(max = limit::NETS_MAX))]
    nets: Option<Vec<String>>,
    /// In none of these networks.
    #[schemars(with = "Option<Vec<shapes::Net>>", length(max = limit::NETS_MAX))]
    not_nets: Option<Vec<String>>,
    /// An endpoint or network set with such labels.
    #[schemars(length(max = Selector::LENGTH_MAX), extend("x-kubernetes-validations" = checks::of(checks::SELECTOR)))]
    selector: Option<String>,
    /// Anything but such an endpoint or network set.
    #[schemars(length(max = Selector::LENGTH_MAX), extend("x-kubernetes-validations" = checks::of(checks::SELECTOR)))]
    not_selector: Option<String>,
    /// In a namespace with such labels; global(): in none.
    #[schemars(length(max = Selector::LENGTH_MAX))]
    namespace_selector: Option<String>,
    /// At one of these ports: 80, 8000:8080, or a name.
    #[schemars(with = "Option<Vec<shapes::Port>>", length(max = limit::PORTS_MAX))]
    ports: Option<Vec<Value>>,
    /// At none of these ports.
    #[schemars(with = "Option<Vec<shapes::Port>>", length(max = limit::PORTS_MAX))]
    not_ports: Option<Vec<Value>>,
    /// A pod that runs as such an account.
    service_accounts: Option<ServiceAccounts>,
    /// A backend of this service. Read beside the rule's direction.
    #[serde(rename = "services")]
    #[schemars(with = "Option<service::Service>")]
    _services: Option<Value>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ServiceAccounts {
    /// Its name is one of these.
    names: Option<Vec<String>>,
    /// It has such labels.
    selector: Option<String>,
}

/// The end that stands at `path`. `namespace`: that of a namespaced policy.
pub(super) fn convert(
    path: &str,
    value: Option<&Value>,
    namespace: Option<&NamespaceName>,
) -> Result<EntityMatch, InvalidField> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(EntityMatch::default()) };
    let entity: Entity = read_at(path, value)?;
    let field = |name: &str| format!("{path}.{name}");
    let nets = each(&field("nets"), entity.nets.as_deref(), |path, text| net(path, text))?;
    let ports = each(&field("ports"), entity.ports.as_deref(), port::calico)?;
    Ok(EntityMatch {
        selector: selector(path, &entity, namespace)?.map(Arc::new),
        not_selector: expression::given(&field("notSelector"), entity.not_selector.as_deref())?.map(Arc::new),
        // An empty list is as good as none, as in Calico's API.
        nets: Some(nets).filter(|nets| !nets.is_empty()),
        not_nets: each(&field("notNets"), entity.not_nets.as_deref(), |path, text| net(path, text))?,
        ports: Some(ports).filter(|ports| !ports.is_empty()),
        not_ports: each(&field("notPorts"), entity.not_ports.as_deref(), port::calico)?,
        ..EntityMatch::default()
    })
}

fn each<T, V>(
    path: &str,
    values: Option<&[V]>,
    read: impl Fn(&str, &V) -> Result<T, InvalidField>,
) -> Result<Box<[T]>, InvalidField> {
    let values = values.unwrap_or_default().iter().enumerate();
    values.map(|(index, value)| read(&format!("{path}[{index}]"), value)).collect()
}

/// A network, whose host bits are cut off (CAL-26), or one address.
pub(in super::super) fn net(path: &str, text: &str) -> Result<Cidr, InvalidField> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Cidr::host(address));
    }
    text.parse().map_err(|error| InvalidField::new(path, error))
}

fn selector(path: &str, entity: &Entity, namespace: Option<&NamespaceName>) -> Result<Option<Selector>, InvalidField> {
    let field = |name: &str| format!("{path}.{name}");
    let namespaces = expression::namespaces(&field("namespaceSelector"), entity.namespace_selector.as_deref())?;
    let own = expression::given(&field("selector"), entity.selector.as_deref())?;
    let mut parts = accounts(&field("serviceAccounts"), entity.service_accounts.as_ref())?;
    parts.extend(own);

    let negates = entity.not_selector.as_ref().is_some_and(|text| !text.is_empty());
    if parts.is_empty() && namespaces.is_none() && !negates {
        return Ok(None);
    }
    let scope = match namespaces {
        Some(namespaces) => Some(namespaces.of_namespaces()),
        None => namespace.map(Selector::in_namespace),
    };
    let parts: Vec<_> = scope.into_iter().chain(parts).collect();
    Ok((!parts.is_empty()).then(|| Selector::all_of(parts)))
}

/// Names and selector are joined by AND (CAL-35).
fn accounts(path: &str, accounts: Option<&ServiceAccounts>) -> Result<Vec<Selector>, InvalidField> {
    let Some(accounts) = accounts else { return Ok(Vec::new()) };
    let by_label = expression::given(&format!("{path}.selector"), accounts.selector.as_deref())?;
    let mut parts: Vec<_> = by_label.iter().map(Selector::of_accounts).collect();
    let names = accounts.names.as_deref().unwrap_or_default();
    for (index, name) in names.iter().enumerate() {
        if !super::super::field::is_object_name(name) {
            let reason = format!("{name:?} is not the name of a service account");
            return Err(InvalidField::new(&format!("{path}.names[{index}]"), reason));
        }
    }
    if !names.is_empty() {
        parts.push(Selector::service_accounts(names.iter().cloned()));
    }
    Ok(parts)
}
