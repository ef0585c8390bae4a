//! A watch of etcd into which others look.
//! In: what keys begin with, and how an object is read. Out: what the objects were heard to be ([`Known`]).
//! Invariant: it goes on after every trouble, where it was or by a list; what cannot be read is as if it were not there.
//! Never: is asked for what must be true now.

use super::{
    connection::EtcdConnection,
    records,
    watched::{self, Said},
};
use crate::{
    Object,
    known::{Heard, Known, Trouble},
};
use std::sync::Arc;
use tokio::sync::mpsc::channel;

/// What was said and not taken in yet, at most.
const WAITING: usize = 64;

/// The object under a key, by its value and its revision; `None`: none, or it cannot be read.
pub(super) type Read = fn(&str, &[u8], i64) -> Option<Object>;

/// Which objects.
#[derive(Clone, Debug)]
pub(super) struct Of {
    pub(super) prefix: String,
    pub(super) read: Read,
}

impl Of {
    /// Leases.
    pub(super) fn leases() -> Self {
        let read: Read = |key, value, at| records::read(crate::lease::KIND, key, value, at).ok().flatten();
        Self { prefix: records::prefix(crate::lease::KIND), read }
    }
}

pub(super) fn begin(connection: &EtcdConnection, of: Of) -> Heard {
    let own = connection.clone();
    Heard::begin(connection.runtime(), |known| follow(own, of, known))
}

async fn follow(connection: EtcdConnection, of: Of, known: Arc<Known>) {
    let (say, mut heard) = channel(WAITING);
    let take_in = async {
        let mut is_listing = false;
        while let Some(said) = heard.recv().await {
            hear(&known, of.read, said, &mut is_listing);
        }
    };
    tokio::join!(watched::run(&connection, &of.prefix, &say), take_in);
}

fn hear(known: &Known, read: Read, said: Said, is_listing: &mut bool) {
    let is_gone = |key: &str, at| read(key, b"{}", at).iter().for_each(|last| known.gone(last));
    match said {
        Said::Listing => {
            *is_listing = true;
            // Of an etcd that was restored from a backup older revisions are the newest.
            known.forget();
            known.listing();
        }
        Said::Is(key, value, revisions) => match read(&key, &value, revisions.at) {
            Some(object) if *is_listing => known.listed_one(object),
            Some(object) => known.heard(object),
            None => is_gone(&key, revisions.at),
        },
        Said::Gone(key, at) => is_gone(&key, at),
        Said::Listed => {
            *is_listing = false;
            known.listed();
        }
        Said::Trouble(None) => known.is_well(),
        Said::Trouble(Some(message)) => {
            known.has_trouble(Trouble { is_absent: false, is_refused: false, message });
        }
        Said::Again => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{super::watched::Revisions, *};
    use crate::lease::KIND;

    fn versions(known: &Known, names: &[&str]) -> Vec<Option<String>> {
        let version = |name: &&str| known.get(name).flatten()?.metadata.resource_version.clone();
        names.iter().map(version).collect()
    }

    #[test]
    fn a_list_and_what_changes_after_it_are_known_by_the_revision_of_the_change() {
        let (known, mut is_listing) = (Known::default(), false);
        let mut say = |said| hear(&known, Of::leases().read, said, &mut is_listing);
        let is = |name: &str, made, at| {
            let key = format!("{}{name}", records::prefix(KIND));
            Said::Is(key, br#"{"holderIdentity":"n1"}"#.to_vec(), Revisions { made, at })
        };
        say(Said::Listing);
        say(is("a", 3, 7));
        assert!(known.get("a").is_none(), "the list is not over");
        say(Said::Listed);
        say(is("b", 8, 8));
        say(is("a", 3, 9));
        assert_eq!(versions(&known, &["a", "b"]), [Some("9".into()), Some("8".into())]);
        say(Said::Gone(format!("{}b", records::prefix(KIND)), 10));
        assert_eq!(versions(&known, &["a", "b"]), [Some("9".into()), None]);
        say(Said::Listing);
        assert!(known.get("a").is_none(), "whoever must know asks meanwhile");
        say(is("a", 3, 4));
        say(Said::Listed);
        assert_eq!(versions(&known, &["a"]), [Some("4".into())], "a backup has older revisions");
        say(Said::Is(format!("{}a", records::prefix(KIND)), b"no object".to_vec(), Revisions { made: 3, at: 11 }));
        assert_eq!(known.get("a"), Some(None), "what cannot be read any more is not there");
    }
}
