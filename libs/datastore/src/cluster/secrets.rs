//! Passwords of BGP sessions, from Secrets of the agents' namespace.
//! In: which keys of which Secrets are asked. Out: each password, or why there is none.
//! Invariant: only Secrets that are named are heard, each by a watch of its own, so that a right to these alone is enough; one that is not
//! named any more is not heard any more. A server that is away takes no password away.
//! Never: a password in a message.

use super::{
    heard::{self, Only},
    kinds,
    objects::{ClusterObjects, NAMESPACE},
};
use crate::{
    Metadata, Object,
    known::{Heard, Trouble},
    shared::{Lack, Passwords},
};
use data_encoding::BASE64;
use kube::{
    Api,
    core::{DynamicObject, ObjectMeta},
};
use model::{Password, SecretKey};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Mutex, PoisonError},
};

/// The watches, by the Secrets' names.
#[derive(Default)]
pub(super) struct Secrets(Mutex<BTreeMap<String, Heard>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

impl ClusterObjects {
    pub(super) fn passwords_of(&self, asked: &BTreeSet<SecretKey>) -> Passwords {
        let mut watches = self.secrets().0.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|name, _| asked.iter().any(|secret| secret.name == *name));
        let resource = kinds::secrets();
        let found = asked.iter().map(|secret| {
            let begin = || {
                let api = Api::namespaced_with(self.connection().client.clone(), NAMESPACE, &resource);
                heard::begin(self.connection(), api, Only::Field(format!("metadata.name={}", secret.name)), data)
            };
            let heard = watches.entry(secret.name.clone()).or_insert_with(begin);
            (
                secret.clone(),
                password(
                    heard.get(&secret.name).map(|known| known.map(|known| known.spec.clone())),
                    heard.trouble(),
                    &secret.key,
                ),
            )
        });
        found.collect()
    }
}

/// What a Secret holds, and nothing else of it.
fn data(found: DynamicObject) -> Object {
    let DynamicObject { metadata: ObjectMeta { name, resource_version, .. }, mut data, .. } = found;
    let metadata = Metadata { name: name.unwrap_or_default(), resource_version };
    let spec = data.get_mut("data").map(Value::take).unwrap_or_default();
    Object { api_version: "v1".into(), kind: "Secret".into(), metadata, spec }
}

/// Of a Secret as it was heard last: `None`: not yet; `Some(None)`: it is not there.
fn password(heard: Option<Option<Value>>, trouble: Option<Trouble>, key: &str) -> Result<Password, Lack> {
    let none = |why: &str| Lack::Is(why.to_owned());
    let data = match (heard, trouble) {
        (Some(data), _) => {
            data.ok_or_else(|| Lack::Is(format!("is not there: there is no such Secret in the namespace {NAMESPACE}")))?
        }
        (None, Some(Trouble { is_refused: true, message, .. })) => {
            let right = "a Role has to let agents get, list and watch it";
            return Err(Lack::Is(format!("may not be read in the namespace {NAMESPACE}; {right}: {message}")));
        }
        (None, trouble) => return Err(Lack::Unknown(trouble.map(|trouble| trouble.message))),
    };
    let coded =
        data.get(key).and_then(Value::as_str).ok_or_else(|| none("is not there: the Secret has no such key"))?;
    let text = BASE64.decode(coded.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    Password::of(&text.ok_or_else(|| none("is no text"))?).ok_or_else(|| none("is empty"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused() -> Trouble {
        Trouble { is_absent: false, is_refused: true, message: "secrets \"bgp\" is forbidden".into() }
    }

    fn lack(found: Result<Password, Lack>) -> String {
        match found {
            Err(Lack::Is(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_password_is_what_its_key_holds_without_the_end_of_a_line() {
        let secret = json!({ "tor": BASE64.encode(b"open sesame\n"), "none": "", "bytes": BASE64.encode(&[0xff]) });
        let of = |key: &str| password(Some(Some(secret.clone())), None, key);
        assert_eq!(of("tor").expect("it is there").text(), "open sesame");
        assert!(lack(of("none")).contains("is empty") && lack(of("bytes")).contains("is no text"));
        assert!(lack(of("gone")).contains("no such key"));
        assert!(lack(password(Some(None), None, "tor")).contains("no such Secret in the namespace tortie-system"));
    }

    #[test]
    fn what_is_known_stays_while_the_server_is_away_or_refuses_and_what_is_not_is_no_absence() {
        let secret = json!({ "tor": BASE64.encode(b"open") });
        let away = Trouble { is_absent: false, is_refused: false, message: "connection refused".into() };
        for trouble in [away.clone(), refused()] {
            assert!(password(Some(Some(secret.clone())), Some(trouble), "tor").is_ok());
        }
        assert_eq!(password(None, None, "tor"), Err(Lack::Unknown(None)));
        assert_eq!(password(None, Some(away), "tor"), Err(Lack::Unknown(Some("connection refused".into()))));
        assert!(lack(password(None, Some(refused()), "tor")).contains("forbidden"), "nobody will say it by waiting");
    }
}
