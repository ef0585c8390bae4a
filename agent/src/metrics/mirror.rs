//! What a mirror tells of itself.
//! In: its standing and counts. Out: samples.
//! Invariant: of several mirrors one leads at most.
//! Never: asks etcd or the API server.

use super::{
    process, serve,
    text::{Kind, Text},
};
use datastore::{MirrorStanding, MirrorTold};
use std::{io, net::SocketAddr, time::SystemTime};

/// Answers at `address` from now on; says where, for port 0. A mirror that ends tells of its process alone.
pub fn serve_mirror(
    address: SocketAddr,
    told: impl Fn() -> Option<MirrorTold> + Send + 'static,
) -> io::Result<SocketAddr> {
    let started = SystemTime::now();
    serve(address, move |mut text| {
        told().iter().for_each(|told| write(&mut text, told));
        process::write(&mut text, started);
        text.end()
    })
}

fn write(text: &mut Text, told: &MirrorTold) {
    let MirrorTold { standing, records, writes, terms } = *told;
    text.family("tortie_mirror_leads", Kind::Gauge, "Whether this mirror writes; of several, one does.");
    text.value(&[], standing != MirrorStanding::Waiting);
    text.family(
        "tortie_mirror_behind",
        Kind::Gauge,
        "Whether it leads and has not written all: agents ask the API server.",
    );
    text.value(&[], standing == MirrorStanding::Behind);
    text.family("tortie_mirror_records", Kind::Gauge, "Records in its etcd as of its last write.").value(&[], records);
    text.family("tortie_mirror_writes_total", Kind::Counter, "Records that it has written or removed.")
        .value(&[], writes);
    text.family("tortie_mirror_terms_total", Kind::Counter, "How often it has begun to lead.").value(&[], terms);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(told: &MirrorTold) -> Vec<String> {
        let mut text = Text::new(false);
        write(&mut text, told);
        text.end().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn who_leads_and_who_is_behind_is_told_with_what_was_written() {
        let waiting = shown(&MirrorTold::default());
        assert_eq!(waiting[..2], ["tortie_mirror_leads 0", "tortie_mirror_behind 0"]);
        let behind = MirrorTold { standing: MirrorStanding::Behind, records: 7, writes: 9, terms: 2 };
        let counts = ["tortie_mirror_records 7", "tortie_mirror_writes_total 9", "tortie_mirror_terms_total 2"];
        assert_eq!(shown(&behind)[..2], ["tortie_mirror_leads 1", "tortie_mirror_behind 1"]);
        assert_eq!(shown(&behind)[2..], counts);
        let serving = shown(&MirrorTold { standing: MirrorStanding::Serving, ..behind });
        assert_eq!(serving[..2], ["tortie_mirror_leads 1", "tortie_mirror_behind 0"]);
    }
}
