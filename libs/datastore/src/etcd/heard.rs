//! A watch of etcd into which others look.
//! In: a kind. Out: what its objects were heard to be ([`Known`]).
//! Invariant: it goes on after every trouble, where it was or by a list; what cannot be read is as if it were not there.
//! Never: is asked for what must be true now.

use super::{
    connection::EtcdConnection,
    records,
    watched::{self, Said},
};
use crate::known::{Heard, Known};
use std::sync::Arc;
use tokio::sync::mpsc::channel;

/// What was said and not taken in yet, at most.
const WAITING: usize = 64;

pub(super) fn begin(connection: &EtcdConnection, kind: &'static str) -> Heard {
    let own = connection.clone();
    Heard::begin(connection.runtime(), |known| follow(own, kind, known))
}

async fn follow(connection: EtcdConnection, kind: &'static str, known: Arc<Known>) {
    let (say, mut heard) = channel(WAITING);
    let prefix = records::prefix(kind);
    let take_in = async {
        let mut is_listing = false;
        while let Some(said) = heard.recv().await {
            hear(&known, kind, said, &mut is_listing);
        }
    };
    tokio::join!(watched::run(&connection, &prefix, &say), take_in);
}

fn hear(known: &Known, kind: &str, said: Said, is_listing: &mut bool) {
    let read = |key: &str, value: &[u8], at| records::read(kind, key, value, at).ok().flatten();
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
        Said::Again | Said::Trouble(_) => {}
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
        let mut say = |said| hear(&known, KIND, said, &mut is_listing);
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
