//! BGPFilter.
//! In: Calico's BGPFilter (api/pkg/apis/projectcalico/v3/bgpfilter.go). Out: [`model::BgpFilter`].
//! Invariant: every rule is understood with all that it asks, or the object is refused.
//! Never: a rule that lets more through than its writer asked for.

use super::{
    super::field::{InvalidField, Meta, read},
    bgpconfiguration::{as_number, community, net},
};
use crate::crds::shapes;
use model::{BgpFilter, BgpOperation, BgpRule, Cidr, NetMatch};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Which routes are taken from peers and told to them.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    /// Told, IPv4.
    export_v4: Option<Vec<Rule>>,
    /// Taken, IPv4.
    import_v4: Option<Vec<Rule>>,
    /// Told, IPv6.
    export_v6: Option<Vec<Rule>>,
    /// Taken, IPv6.
    import_v6: Option<Vec<Rule>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// A network, with which that of the route is compared.
    cidr: Option<String>,
    /// Shortest and longest prefix.
    prefix_length: Option<Lengths>,
    /// RemotePeers: it was learned from a peer.
    #[schemars(extend("enum" = ["RemotePeers", ""]))]
    source: Option<String>,
    /// By which interface it leaves.
    interface: Option<String>,
    /// How networks are compared.
    #[schemars(extend("enum" = ["Equal", "NotEqual", "In", "NotIn", ""]))]
    match_operator: Option<String>,
    /// Of which peers it is.
    #[schemars(extend("enum" = ["eBGP", "iBGP", ""]))]
    peer_type: Option<String>,
    /// A community that it bears.
    communities: Option<Communities>,
    /// How its path begins.
    #[serde(rename = "asPathPrefix")]
    #[schemars(with = "Option<Vec<shapes::AsNumber>>")]
    as_path_prefix: Option<Vec<Value>>,
    /// Its priority.
    priority: Option<u32>,
    /// Accept or Reject.
    #[schemars(extend("enum" = ["Accept", "Reject"]))]
    action: String,
    /// What is done to it before.
    operations: Option<Vec<Operation>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lengths {
    /// The shortest.
    min: Option<u8>,
    /// The longest.
    max: Option<u8>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Communities {
    /// One, as aa:nn or aa:nn:mm.
    #[schemars(length(max = 1))]
    values: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Operation {
    /// It bears this, too.
    #[serde(rename = "addCommunity")]
    add_community: Option<Valued>,
    /// Its path begins with these.
    #[serde(rename = "prependASPath")]
    prepend_as_path: Option<Prefix>,
    /// It has this priority.
    #[serde(rename = "setPriority")]
    set_priority: Option<Number>,
}

#[derive(Deserialize, JsonSchema)]
struct Valued {
    /// aa:nn or aa:nn:mm.
    value: String,
}

#[derive(Deserialize, JsonSchema)]
struct Prefix {
    /// Numbers of ASs, the first one first.
    #[schemars(with = "Vec<shapes::AsNumber>")]
    prefix: Vec<Value>,
}

#[derive(Deserialize, JsonSchema)]
struct Number {
    /// A metric: less is better.
    value: u32,
}

pub(in super::super) fn convert(meta: &Meta, object: &Value) -> Result<BgpFilter, InvalidField> {
    let spec: Spec = read("spec", object)?;
    let rules = |name: &str, rules: Option<Vec<Rule>>, is_v4: bool| -> Result<Vec<BgpRule>, InvalidField> {
        let rules = rules.unwrap_or_default();
        rules.iter().enumerate().map(|(index, each)| rule(&format!("spec.{name}[{index}]"), each, is_v4)).collect()
    };
    Ok(BgpFilter {
        name: meta.name.clone(),
        import_v4: rules("importV4", spec.import_v4, true)?,
        import_v6: rules("importV6", spec.import_v6, false)?,
        export_v4: rules("exportV4", spec.export_v4, true)?,
        export_v6: rules("exportV6", spec.export_v6, false)?,
    })
}

fn rule(path: &str, rule: &Rule, is_v4: bool) -> Result<BgpRule, InvalidField> {
    let wrong = |field: &str, reason: String| Err(InvalidField::new(&format!("{path}.{field}"), reason));
    let is_learned = match rule.source.as_deref() {
        None | Some("") => false,
        Some("RemotePeers") => true,
        Some(other) => return wrong("source", format!("{other:?} is not RemotePeers")),
    };
    let is_internal = match rule.peer_type.as_deref() {
        None | Some("") => None,
        Some("iBGP") => Some(true),
        Some("eBGP") => Some(false),
        Some(other) => return wrong("peerType", format!("{other:?} is neither eBGP nor iBGP")),
    };
    let accepts = match rule.action.as_str() {
        "Accept" => true,
        "Reject" => false,
        other => return wrong("action", format!("{other:?} is neither Accept nor Reject")),
    };
    let operations = rule.operations.iter().flatten().map(|each| operation(&format!("{path}.operations"), each));
    let operations: Vec<_> = operations.collect::<Result<_, _>>()?;
    if !accepts && !operations.is_empty() {
        return wrong("operations", "go with Accept alone".to_owned());
    }
    let values = rule.communities.as_ref().map(|communities| &*communities.values);
    let community = match values {
        None => None,
        Some([value]) => Some(community(&format!("{path}.communities"), value)?),
        Some(_) => return wrong("communities.values", "needs one value, and no more".to_owned()),
    };
    Ok(BgpRule {
        net: matched(path, rule, is_v4)?,
        is_learned,
        interface: rule.interface.clone().filter(|name| !name.is_empty()),
        is_internal,
        community,
        path: numbers(&format!("{path}.asPathPrefix"), rule.as_path_prefix.as_deref().unwrap_or_default())?,
        priority: rule.priority,
        accepts,
        operations,
    })
}

fn numbers(path: &str, written: &[Value]) -> Result<Vec<model::AsNumber>, InvalidField> {
    written.iter().map(|value| as_number(path, value)).collect()
}

fn matched(path: &str, rule: &Rule, is_v4: bool) -> Result<Option<NetMatch>, InvalidField> {
    let operator = rule.match_operator.as_deref().filter(|operator| !operator.is_empty());
    let Some(cidr) = rule.cidr.as_deref().filter(|cidr| !cidr.is_empty()) else {
        return match (operator, &rule.prefix_length) {
            (None, None) => Ok(None),
            _ => Err(InvalidField::new(&format!("{path}.cidr"), "is required beside matchOperator and prefixLength")),
        };
    };
    let found: Cidr = net(&format!("{path}.cidr"), cidr)?;
    if found.is_v4() != is_v4 {
        return Err(InvalidField::new(&format!("{path}.cidr"), format!("{cidr} is not of the rule's family")));
    }
    let (within, negated) = match operator {
        Some("In") => (true, false),
        Some("NotIn") => (true, true),
        Some("Equal") => (false, false),
        Some("NotEqual") => (false, true),
        other => {
            let reason = format!("{:?} is not Equal, NotEqual, In or NotIn", other.unwrap_or_default());
            return Err(InvalidField::new(&format!("{path}.matchOperator"), reason));
        }
    };
    let longest = if is_v4 { 32 } else { 128 };
    let lengths = rule.prefix_length.as_ref().map(|said| (said.min.unwrap_or(0), said.max.unwrap_or(longest)));
    if lengths.is_some_and(|(least, most)| least.max(found.prefix_len()) > most.min(longest)) {
        return Err(InvalidField::new(&format!("{path}.prefixLength"), "no network of the cidr is of such a length"));
    }
    Ok(Some(NetMatch { net: found, within, negated, lengths }))
}

fn operation(path: &str, written: &Operation) -> Result<BgpOperation, InvalidField> {
    match (&written.add_community, &written.prepend_as_path, &written.set_priority) {
        (Some(add), None, None) => Ok(BgpOperation::Add(community(&format!("{path}.addCommunity"), &add.value)?)),
        (None, Some(path_prefix), None) => {
            Ok(BgpOperation::Prepend(numbers(&format!("{path}.prependASPath"), &path_prefix.prefix)?))
        }
        (None, None, Some(priority)) => Ok(BgpOperation::Priority(priority.value)),
        _ => Err(InvalidField::new(path, "each sets one of addCommunity, prependASPath and setPriority")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{known, refusal};
    use super::*;
    use model::{AsNumber, Community, Resource};

    fn text(spec: &str) -> String {
        format!("{{apiVersion: projectcalico.org/v3, kind: BGPFilter, metadata: {{name: f}}, spec: {spec}}}")
    }

    #[test]
    fn rules_are_read_with_all_that_they_ask() {
        let Resource::BgpFilter(found) = known(&text(
            "{exportV4: [{cidr: 10.0.0.0/8, matchOperator: NotIn, prefixLength: {min: 16}, source: RemotePeers, interface: 'eth*',
                peerType: eBGP, communities: {values: ['1:2']}, asPathPrefix: [1, 2], priority: 512, action: Accept,
                operations: [{addCommunity: {value: '1:2:3'}}, {prependASPath: {prefix: [7]}}, {setPriority: {value: 100}}]}],
              importV6: [{cidr: 'fd00::/8', matchOperator: Equal, action: Reject}]}",
        ))
        .0
        else {
            panic!("a filter")
        };
        let rule = &found.export_v4[0];
        let net =
            NetMatch { net: "10.0.0.0/8".parse().expect("one"), within: true, negated: true, lengths: Some((16, 32)) };
        assert_eq!((rule.net, rule.is_learned, rule.is_internal), (Some(net), true, Some(false)));
        assert_eq!((rule.community, rule.priority, rule.accepts), (Some(Community::Standard(1, 2)), Some(512), true));
        assert_eq!(
            rule.operations,
            [
                BgpOperation::Add(Community::Large(1, 2, 3)),
                BgpOperation::Prepend(vec![AsNumber(7)]),
                BgpOperation::Priority(100)
            ]
        );
        assert!(!found.import_v6[0].accepts && found.import_v4.is_empty());
    }

    #[test]
    fn a_rule_that_is_not_understood_refuses_the_filter() {
        for (rule, field) in [
            ("{cidr: 10.0.0.0/8, action: Accept}", "matchOperator"),
            ("{cidr: 'fd00::/8', matchOperator: In, action: Accept}", "cidr"),
            ("{matchOperator: In, action: Accept}", "cidr"),
            ("{cidr: 10.0.0.0/24, matchOperator: In, prefixLength: {max: 16}, action: Accept}", "prefixLength"),
            ("{action: Maybe}", "action"),
            ("{source: Elsewhere, action: Accept}", "source"),
            ("{peerType: both, action: Accept}", "peerType"),
            ("{communities: {values: ['1']}, action: Accept}", "communities"),
            ("{operations: [{setPriority: {value: 1}}], action: Reject}", "operations"),
            ("{operations: [{}], action: Accept}", "operations"),
            ("{unheardOf: 1, action: Accept}", ""),
        ] {
            let refused = refusal(&text(&format!("{{exportV4: [{rule}]}}")));
            assert!(
                refused.starts_with(&format!("spec.exportV4[0].{field}").trim_end_matches('.').to_owned()),
                "{rule}: {refused}"
            );
        }
    }
}
