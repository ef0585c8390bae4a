//! Structural schemas: the part of JSON Schema that an API server takes.
//! In: a Rust type that is read. Out: the schema of its written form, whole, without references.
//! Invariant: an object keeps the fields that are not described; nothing has a default.
//! Never: lets `null` stand but where a list has gaps.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// The schema of `T`.
pub(super) fn structural<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = Value::from(SchemaGenerator::new(settings).into_root_schema_for::<T>());
    rewrite(&mut schema);
    schema
}

fn rewrite(schema: &mut Value) {
    if !schema.is_object() {
        // Anything goes.
        *schema = json!({ PRESERVE: true });
    }
    let Value::Object(fields) = schema else { return };
    for key in ["$schema", "title", "default", "format", "additionalItems"] {
        fields.remove(key);
    }
    without_null(fields);
    plain_choice(fields);
    if fields.contains_key("properties") {
        fields.remove("additionalProperties");
    }
    for key in ["items", "additionalProperties"] {
        let Some(part) = fields.get_mut(key) else { continue };
        let has_gaps = key == "items" && may_be_null(part);
        rewrite(part);
        if has_gaps {
            part["nullable"] = true.into();
        }
    }
    for part in fields.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        rewrite(part);
    }
    let is_closed = match fields.get("type") {
        Some(kind) => kind == "object" && !fields.contains_key("additionalProperties"),
        // Nothing but what it is for.
        None => !fields.contains_key("x-kubernetes-int-or-string"),
    };
    if is_closed {
        fields.insert(PRESERVE.to_owned(), true.into());
    }
    if let Some(Value::String(description)) = fields.get_mut("description") {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
}

fn may_be_null(schema: &Value) -> bool {
    schema["type"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "null"))
}

/// A field that may be absent is written so, and not as `null`.
fn without_null(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(kinds)) = fields.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            let only = only.clone();
            fields.insert("type".to_owned(), only);
        }
    }
    let some = fields.get("anyOf").and_then(Value::as_array).and_then(|all| match all.as_slice() {
        [some, none] if *none == json!({ "type": "null" }) => some.as_object().cloned(),
        _ => None,
    });
    if let Some(some) = some {
        fields.remove("anyOf");
        for (key, value) in some {
            fields.entry(key).or_insert(value);
        }
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
}

/// Choices of which each is explained: the explanations go.
fn plain_choice(fields: &mut Map<String, Value>) {
    let choices = fields.get("oneOf").and_then(Value::as_array);
    let values: Option<Vec<Value>> = choices.and_then(|all| all.iter().map(|one| one.get("const").cloned()).collect());
    if let Some(values) = values {
        fields.remove("oneOf");
        fields.insert("type".to_owned(), "string".into());
        fields.insert("enum".to_owned(), values.into());
    }
}
