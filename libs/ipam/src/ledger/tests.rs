//! What a ledger decides, and in which order that is written.
//! In: wishes of few nodes and pods. Out: addresses, owners of blocks, kinds of writes.
//! Invariant: what is refused changes nothing.
//! Never: a datastore.

use super::*;
use crate::{AssignError, Request};
use model::{Family, PoolUses, Selector};

fn request(node: &str, owner: &str) -> Request {
    Request { node: node.into(), owner: owner.into(), sequence: 1, ..Request::default() }
}

fn wish(owner: &str, wanted: &str) -> Request {
    Request { wanted: vec![wanted.parse().expect("an address")], ..request("n1", owner) }
}

fn ledger(pools: &[(&str, u8)]) -> Ledger {
    let mut ledger = Ledger::default();
    for (number, (cidr, block_size)) in pools.iter().enumerate() {
        let cidr = cidr.parse().expect("a valid network");
        let name = format!("pool{number}");
        let pool = IpPool::of_pods(&name, cidr, *block_size);
        ledger.pools.insert(name, pool);
    }
    ledger
}

fn kinds(writes: &[Write]) -> Vec<&'static str> {
    let kind = |write: &Write| match write {
        Write::Block(..) => "block",
        Write::Affinity(_, kept) if kept.value.state == AffinityState::Pending => "pending",
        Write::Affinity(_, kept) if kept.value.state == AffinityState::PendingDeletion => "pending deletion",
        Write::Affinity(..) | Write::Confirm(..) => "confirmed",
        Write::Handle(..) => "handle",
        Write::Recount(..) => "recount",
        Write::RemoveBlock(..) => "no block",
        Write::RemoveHandle(..) => "no handle",
        Write::RemoveAffinity(..) => "no claim",
    };
    writes.iter().map(kind).collect()
}

#[test]
fn ipam_20_the_same_owner_gets_the_same_addresses_of_both_families_and_never_more() {
    let mut ledger = ledger(&[("10.65.0.0/24", 26), ("fd00:65::/64", 122)]);
    let first = ledger.assign(&request("n1", "a"));
    assert_eq!(first.as_ref().map(Vec::len), Ok(2));
    assert_eq!(ledger.assign(&request("n1", "a")), first);
    // Where it asks otherwise, too: of a family less it has what it has of that, and of other pools nothing more.
    let v6 = Request { families: vec![Family::V6], ..request("n1", "a") };
    assert_eq!(ledger.assign(&v6), first.clone().map(|both| both[1..].to_vec()));
    assert_eq!(stored(&ledger).assign(&request("n1", "a")), first, "as it is written");
    assert_eq!(ledger.held_by("a"), first.clone().expect("addresses"));
    assert_ne!(ledger.assign(&request("n1", "b")), first);
}

#[test]
fn ipam_21_a_node_has_one_block_of_a_family_however_often_it_asks_and_of_the_pool_that_is_named() {
    let mut ledger =
        ledger(&[("10.65.0.0/24", 26), ("fd00:65::/64", 122), ("10.66.0.0/24", 26), ("fd00:66::/64", 122)]);
    let named = |owner: &str| {
        let pools = [(Family::V4, vec!["pool2".to_owned()]), (Family::V6, vec!["fd00:66::/64".to_owned()])];
        Request { pools: pools.into(), ..request("n1", owner) }
    };
    for owner in ["a", "b", "b"] {
        ledger.assign(&named(owner)).expect("addresses");
        ledger = stored(&ledger);
        let blocks: Vec<_> = ledger.blocks.keys().collect();
        let pools = ["10.66.0.0/24", "fd00:66::/64"].map(|cidr| cidr.parse::<Cidr>().expect("a network"));
        assert_eq!(blocks.len(), 2, "{blocks:?}");
        assert!(pools.iter().zip(&blocks).all(|(pool, block)| pool.covers(block)), "{blocks:?}");
        assert_eq!(ledger.affinities.len(), 2, "a claim of each");
    }
}

#[test]
fn ipam_18_a_claim_is_pending_until_its_block_is_written() {
    let mut ledger = ledger(&[("10.65.0.0/24", 26)]);
    assert!(ledger.assign(&request("n1", "a")).is_ok());
    assert_eq!(kinds(&ledger.writes()), ["pending", "handle", "block", "confirmed"]);
}

#[test]
fn the_last_sequence_number_is_followed_by_the_first() {
    let mut ledger = ledger(&[("10.65.0.0/24", 26)]);
    ledger.assign(&Request { sequence: u64::MAX, ..request("n1", "a") }).expect("an address");
    let writes = ledger.writes();
    let number =
        |write: &Write| if let Write::Block(_, kept) = write { Some(kept.value.sequence_number) } else { None };
    assert_eq!(writes.iter().find_map(number), Some(0));
}

#[test]
fn a_release_removes_the_handle_after_the_block_is_written() {
    let mut before = ledger(&[("10.65.0.0/24", 26)]);
    before.assign(&request("n1", "a")).expect("an address");
    let mut after = stored(&before);
    assert_eq!(after.release("a").len(), 1);
    assert_eq!(kinds(&after.writes()), ["block", "no handle"]);
    assert!(after.release("a").is_empty());
}

#[test]
fn calc_12_a_dual_stack_wish_is_met_whole_or_not_at_all() {
    let mut ledger = ledger(&[("10.65.0.0/24", 26), ("fd00:65::/128", 128)]);
    assert!(ledger.assign(&request("n1", "a")).is_ok());
    let before = ledger.clone();
    assert!(matches!(ledger.assign(&request("n1", "b")), Err(AssignError::Full { .. })));
    assert_eq!(ledger, before);
}

#[test]
fn cni_94_an_address_asked_for_by_number_is_given_once_and_the_other_family_in_turn() {
    let mut ledger = ledger(&[("10.65.0.0/24", 26), ("fd00:65::/64", 122)]);
    let given = ledger.assign(&wish("a", "10.65.0.77")).expect("free");
    assert_eq!((given[0].to_string().as_str(), given.len()), ("10.65.0.77", 2));
    assert_eq!(ledger.assign(&wish("a", "10.65.0.77")), Ok(given), "its own is no other's");
    let before = ledger.clone();
    assert!(matches!(ledger.assign(&wish("b", "10.65.0.77")), Err(AssignError::Taken { .. })));
    assert!(matches!(ledger.assign(&wish("b", "10.66.0.1")), Err(AssignError::NotInPool { .. })));
    assert_eq!(ledger, before);
    ledger.release("a");
    assert!(ledger.assign(&wish("b", "10.65.0.77")).is_ok());
}

#[test]
fn an_address_that_others_gave_out_is_marked_where_a_pool_has_it() {
    let mut ledger = ledger(&[("10.65.0.0/30", 30)]);
    assert_eq!(ledger.claim_wanted(&wish("x", "10.9.9.9")), Ok(()));
    assert!(ledger.held_by("x").is_empty(), "no pool has it");
    assert_eq!(ledger.claim_wanted(&wish("x", "10.65.0.0")), Ok(()));
    let ours: Vec<_> = ["a", "b", "c", "d"].map(|handle| ledger.assign(&request("n1", handle)).is_ok()).into();
    assert_eq!(ours, [true, true, true, false], "the fourth is taken");
    assert!(matches!(ledger.claim_wanted(&wish("y", "10.65.0.0")), Err(AssignError::Taken { .. })));
}

#[test]
fn ipam_13_pods_get_no_address_of_a_pool_that_is_not_for_them() {
    let mut ledger = ledger(&[("192.0.2.128/28", 28)]);
    for pool in ledger.pools.values_mut() {
        pool.uses = PoolUses { workload: false, load_balancer: true, tunnel: false };
    }
    assert_eq!(ledger.assign(&request("n1", "a")), Err(AssignError::NoPool));
    assert!(matches!(ledger.assign(&wish("a", "192.0.2.130")), Err(AssignError::NoPool)));
    let pods = IpPool::of_pods("pods", "10.65.0.0/24".parse().expect("a network"), 26);
    ledger.pools.insert("pods".into(), pods.clone());
    assert!(matches!(ledger.assign(&wish("a", "192.0.2.130")), Err(AssignError::NotInPool { .. })));
    // One whose addresses have to be asked for gives none by itself.
    ledger.pools.insert("pods".into(), IpPool { manual: true, ..pods });
    assert_eq!(ledger.assign(&request("n1", "a")), Err(AssignError::NoPool));
}

#[test]
fn ipam_8_a_block_of_a_deleted_pool_gives_nothing_but_takes_back() {
    let mut ledger = ledger(&[("10.65.0.0/24", 26)]);
    ledger.assign(&request("n1", "a")).expect("an address");
    ledger.pools.clear();
    assert_eq!(ledger.assign(&request("n1", "b")), Err(AssignError::NoPool));
    assert_eq!(ledger.release("a").len(), 1);
}

#[test]
fn ipam_18_the_loser_of_a_block_takes_the_next_and_drops_its_claim() {
    let mut before = ledger(&[("10.65.0.0/25", 26)]);
    before.assign(&request("n1", "a")).expect("an address");
    let block = before.blocks.values().next().expect("one block").value.cidr;
    let lost = BlockAffinity::new(&"n2".into(), block, AffinityState::Pending);
    before.affinities.insert(lost.name(), Kept { revision: Some("3".into()), value: lost });
    before.config.strict_affinity = true;
    let mut after = stored(&before);
    after.assign(&request("n2", "b")).expect("an address");
    assert!(kinds(&after.writes()).contains(&"no claim"));
    assert!(matches!(after.assign(&request("n3", "c")), Err(AssignError::Full { .. })));
}

/// As it would be read again after all was written: every object at some revision.
fn stored(ledger: &Ledger) -> Ledger {
    let mut ledger = ledger.clone();
    ledger.recount();
    let revision = || Some("1".to_owned());
    let blocks = ledger.blocks.iter().map(|(key, kept)| (*key, Kept { revision: revision(), ..kept.clone() }));
    let affinities =
        ledger.affinities.iter().map(|(key, kept)| (key.clone(), Kept { revision: revision(), ..kept.clone() }));
    let handles = ledger.handles.iter().map(|(key, kept)| (key.clone(), Kept { revision: revision(), ..kept.clone() }));
    Ledger { blocks: blocks.collect(), affinities: affinities.collect(), handles: handles.collect(), ..ledger.clone() }
}

fn owners(ledger: &Ledger) -> Vec<String> {
    ledger.blocks.values().map(|kept| kept.value.affinity.clone().unwrap_or_else(|| "nobody".into())).collect()
}

/// How many of these get an address.
fn served(ledger: &mut Ledger, node: &str, pods: std::ops::Range<u32>) -> usize {
    pods.filter(|pod| ledger.assign(&request(node, &format!("{node}.{pod}"))).is_ok()).count()
}

fn refusal(ledger: &mut Ledger, request: &Request) -> String {
    let mut before = ledger.clone();
    let error = ledger.assign(request).expect_err("there is none").to_string();
    assert_eq!(*ledger, before, "what is refused changes nothing");
    assert_eq!(ledger.writes(), before.writes(), "nor does it write");
    error
}

#[test]
fn ipam_1_a_node_whose_block_is_full_takes_another_and_what_nobody_configured_is_calicos_default() {
    let mut ledger = ledger(&[("10.65.0.0/24", 30)]);
    assert_eq!(served(&mut ledger, "n1", 0..9), 9);
    assert_eq!(owners(&ledger), ["host:n1"; 3]);
    let config = ledger.config;
    assert_eq!((config.strict_affinity, config.auto_allocate_blocks, config.max_blocks), (false, true, None));
}

#[test]
fn a_node_that_nobody_limits_has_no_more_than_calicos_twenty_blocks_and_borrows_then() {
    let mut ledger = ledger(&[("10.65.0.0/26", 31)]);
    ledger.assign(&request("n2", "other")).expect("an address");
    assert_eq!(served(&mut ledger, "n1", 0..41), 41);
    assert_eq!(owners(&ledger).iter().filter(|owner| *owner == "host:n1").count(), 20);
    assert!(refusal(&mut ledger, &request("n1", "more")).contains("it has 20 blocks, and may have 20"));
}

#[test]
fn ipam_3_what_is_borrowed_stays_and_strict_affinity_lends_no_more() {
    let mut ledger = ledger(&[("10.65.0.0/28", 28)]);
    ledger.assign(&request("n1", "own")).expect("an address");
    let borrowed = ledger.assign(&request("n2", "borrower")).expect("one to lend");
    assert_eq!(owners(&ledger), ["host:n1"]);
    assert!(ledger.own_blocks(&"n2".into(), Family::V4).is_empty(), "it claims nothing");
    ledger.config.strict_affinity = true;
    let said = refusal(&mut ledger, &request("n2", "another"));
    assert!(said.contains("IPPool pool0 for node n2") && said.contains("strictAffinity"), "{said}");
    assert_eq!(ledger.held_by("borrower"), borrowed);
    assert_eq!(ledger.release("borrower"), borrowed, "and goes back to whose block it is");
    assert_eq!(owners(&ledger), ["host:n1"]);
}

#[test]
fn ipam_5_of_two_blocks_a_ninth_address_is_refused() {
    let mut ledger = ledger(&[("10.65.0.0/24", 30)]);
    ledger.config = IpamConfig { strict_affinity: true, max_blocks: Some(2), ..ledger.config };
    assert_eq!(served(&mut ledger, "n1", 0..8), 8);
    let said = refusal(&mut ledger, &request("n1", "ninth"));
    assert!(said.contains("it has 2 blocks, and may have 2 (maxBlocksPerHost)"), "{said}");
    ledger.config.max_blocks = Some(1);
    ledger.release("n1.3");
    assert!(ledger.assign(&request("n1", "ninth")).is_ok(), "what it has above the limit it uses");
}

#[test]
fn without_auto_allocate_blocks_a_node_gives_of_what_it_has() {
    let mut ledger = ledger(&[("10.65.0.0/24", 31)]);
    ledger.config = IpamConfig { strict_affinity: true, ..ledger.config };
    ledger.assign(&request("n1", "a")).expect("an address");
    ledger.config.auto_allocate_blocks = false;
    assert!(ledger.assign(&request("n1", "b")).is_ok());
    assert!(refusal(&mut ledger, &request("n1", "c")).contains("autoAllocateBlocks"));
    assert!(refusal(&mut ledger, &wish("c", "10.65.0.200")).contains("autoAllocateBlocks"));
}

#[test]
fn ipam_17_what_is_reserved_is_given_to_who_names_it_alone() {
    let mut ledger = ledger(&[("10.65.0.0/29", 30)]);
    ledger.reserved = ["10.65.0.0/30", "10.65.0.5/32"].map(|text| text.parse().expect("a network")).into();
    let mut given: Vec<_> = (0..3).filter_map(|pod| ledger.assign(&request("n1", &format!("p{pod}"))).ok()).collect();
    given.sort();
    let given: Vec<_> = given.concat().iter().map(ToString::to_string).collect();
    assert_eq!(given, ["10.65.0.4", "10.65.0.6", "10.65.0.7"], "a block that is reserved as a whole is skipped");
    refusal(&mut ledger, &request("n1", "more"));
    refusal(&mut ledger, &request("n2", "more"));
    assert!(ledger.assign(&wish("named", "10.65.0.5")).is_ok());
}

#[test]
fn ipam_9_ipam_10_an_old_release_frees_no_new_owners_address() {
    let mut ledger = ledger(&[("10.65.0.0/30", 30)]);
    let [address] = ledger.assign(&request("n1", "a")).expect("an address")[..] else { panic!("one") };
    let sequence = |ledger: &Ledger| {
        let block = &ledger.blocks.values().next().expect("a block").value;
        *block.sequence_number_for_allocation.values().next().expect("one is given out")
    };
    let seen = sequence(&ledger);
    assert_eq!(ledger.release_seen(address, "b", seen), Err("a".to_owned()), "another owner");
    assert_eq!(ledger.release_seen(address, "a", seen + 1), Err("a".to_owned()), "another count");
    assert_eq!(ledger.held_by("a"), [address]);
    // Released and given anew to the same owner, the block written in between.
    ledger.release("a");
    for kept in ledger.blocks.keys().copied().collect::<Vec<_>>() {
        ledger.blocks.get_mut(&kept).expect("there").value.sequence_number += 1;
    }
    ledger.assign(&Request { wanted: vec![address], ..request("n1", "a") }).expect("it is free");
    assert_eq!(ledger.release_seen(address, "a", seen), Err("a".to_owned()), "ipam_10: it was given anew");
    let now = sequence(&ledger);
    assert_eq!(ledger.release_seen(address, "a", now), Ok(true));
    assert_eq!(ledger.release_seen(address, "a", now), Ok(false), "twice is no error");
    assert!(!kinds(&ledger.writes()).contains(&"handle") && ledger.handles.is_empty());
}

#[test]
fn ipam_11_an_empty_block_without_an_owner_goes_and_one_that_is_used_stays() {
    let mut before = ledger(&[("10.65.0.0/24", 26)]);
    for pod in ["a", "b"] {
        before.assign(&request("n1", pod)).expect("an address");
    }
    let mut ledger = stored(&before);
    let cidr = *ledger.blocks.keys().next().expect("one block");
    assert!(ledger.give_up(cidr));
    assert_eq!((owners(&ledger), ledger.affinities.len()), (vec!["nobody".to_owned()], 0));
    assert_eq!(kinds(&ledger.writes()), ["pending deletion", "block", "no claim"]);
    let mut ledger = stored(&ledger);
    ledger.release("a");
    assert_eq!(kinds(&ledger.writes()), ["block", "handle"], "it counts one less once it holds one less");
    ledger.release("b");
    assert_eq!(kinds(&ledger.writes()), ["no block", "no handle"]);
    assert!(!ledger.give_up(cidr), "it is gone");
}

#[test]
fn ipam_12_with_its_last_address_a_block_goes_whose_pool_selects_the_node_no_more() {
    let node = |zone: &str| Labels::from([("zone", zone)]);
    let selects = |zone: &str| format!("zone == '{zone}'").parse::<Selector>().expect("a selector");
    let asks = |owner: &str| Request { node_labels: node("a"), ..request("n1", owner) };
    let mut before = ledger(&[("10.65.0.0/24", 26), ("10.66.0.0/24", 26)]);
    before.assign(&asks("x")).expect("an address");
    before.pools.get_mut("pool0").expect("there").nodes = selects("b");
    // Used: it stays, and gives nothing.
    let mut used = stored(&before);
    let given = used.assign(&asks("y")).expect("of the other pool");
    assert!(given[0].to_string().starts_with("10.66."), "{given:?}");
    assert_eq!(used.blocks.len(), 2);
    // Its last address goes.
    let mut left = stored(&before);
    left.here = Some(("n1".into(), node("a")));
    left.release("x");
    assert_eq!(kinds(&left.writes()), ["pending deletion", "no block", "no handle", "no claim"]);
    // Where another use is the reason, or another node looks, it stays.
    let mut stays = stored(&before);
    let pool = stays.pools.get_mut("pool0").expect("there");
    (pool.nodes, pool.uses.workload) = (Selector::All, false);
    stays.here = Some(("n1".into(), node("a")));
    stays.release("x");
    assert_eq!(kinds(&stays.writes()), ["block", "no handle"]);
    // Empty already: with the next wish.
    let mut empty = stored(&before);
    empty.release("x");
    let mut empty = stored(&empty);
    empty.assign(&asks("y")).expect("of the other pool");
    assert_eq!(
        kinds(&empty.writes()),
        ["pending", "pending deletion", "handle", "block", "no block", "confirmed", "no claim"]
    );
}

#[test]
fn ipam_15_pools_select_nodes_and_namespaces_and_who_asks_by_name_gets_any() {
    let mut ledger = ledger(&[("10.65.0.0/24", 26), ("10.66.0.0/24", 26)]);
    for (pool, nodes, namespaces) in [("pool0", "rack == '1'", "team == 'a'"), ("pool1", "all()", "team == 'b'")] {
        let pool = ledger.pools.get_mut(pool).expect("there");
        (pool.nodes, pool.namespaces) = (nodes.parse().expect("one"), namespaces.parse().expect("one"));
    }
    let mut gets = |rack: &str, team: &str, asked: &[&str]| {
        let pools = (!asked.is_empty()).then(|| (Family::V4, asked.iter().map(|text| (*text).to_owned()).collect()));
        let request = Request {
            node_labels: Labels::from([("rack", rack)]),
            namespace_labels: Labels::from([("team", team)]),
            pools: pools.into_iter().collect(),
            ..request("n1", &format!("{rack}{team}{asked:?}"))
        };
        ledger.assign(&request).map(|given| given[0].to_string()[..5].to_owned()).map_err(|error| error.to_string())
    };
    assert_eq!(gets("1", "a", &[]).as_deref(), Ok("10.65"));
    assert_eq!(gets("1", "b", &[]).as_deref(), Ok("10.66"));
    assert!(gets("2", "a", &[]).is_err_and(|said| said.contains("no IPPool gives IPv4 addresses to this pod")));
    assert_eq!(gets("2", "c", &["pool0"]).as_deref(), Ok("10.65"));
    assert_eq!(gets("2", "c", &["10.66.0.0/24"]).as_deref(), Ok("10.66"), "calc_7: by network, too");
}

#[test]
fn calc_8_ipam_16_one_pool_that_cannot_be_had_refuses_the_wish_and_of_two_the_first_is_used_first() {
    let mut ledger = ledger(&[("10.65.0.0/31", 31), ("10.66.0.0/30", 30), ("10.67.0.0/24", 26), ("fd00::/120", 122)]);
    ledger.config.strict_affinity = true;
    ledger.pools.get_mut("pool2").expect("there").disabled = true;
    let asks = |owner: &str, asked: &[&str]| Request {
        pools: [(Family::V4, asked.iter().map(|text| (*text).to_owned()).collect())].into(),
        families: vec![Family::V4],
        ..request("n1", owner)
    };
    for (asked, said) in [
        (["pool1", "none"], "IPPool none was asked for, and there is none"),
        (["pool1", "pool2"], "IPPool pool2 was asked for, and it is disabled"),
        (["pool1", "pool3"], "IPPool pool3 was asked for, and it is of the other family"),
    ] {
        let text = refusal(&mut ledger, &asks("x", &asked));
        assert!(text.contains(said), "{text}");
    }
    let given: Vec<_> = (0..6).map(|pod| ledger.assign(&asks(&format!("p{pod}"), &["pool1", "pool0"]))).collect();
    let of = |net: &str| given.iter().flatten().flatten().filter(|ip| ip.to_string().starts_with(net)).count();
    assert_eq!((of("10.66."), of("10.65.")), (4, 2));
    assert!(given[..4].iter().flatten().flatten().all(|ip| ip.to_string().starts_with("10.66.")));
    assert!(refusal(&mut ledger, &asks("more", &["pool1", "pool0"])).contains("IPPool pool1, pool0"));
}

#[test]
fn ipam_14_a_manual_pool_gives_to_who_names_it() {
    let mut ledger = ledger(&[("10.65.0.0/24", 26)]);
    ledger.pools.get_mut("pool0").expect("there").manual = true;
    assert_eq!(ledger.assign(&request("n1", "a")), Err(AssignError::NoPool));
    let named = Request { pools: [(Family::V4, vec!["pool0".to_owned()])].into(), ..request("n1", "a") };
    assert!(ledger.assign(&named).is_ok());
    assert!(ledger.assign(&wish("b", "10.65.0.9")).is_ok());
}

#[test]
fn an_empty_block_of_another_node_is_taken_when_nothing_else_is_left_and_it_was_not_claimed_just_now() {
    let at = |minute: u32| format!("2026-11-27T02:{minute:02}:00Z");
    let asks = |node: &str, owner: &str, minute: u32| Request {
        now: at(minute),
        reclaimable: at(minute - 1),
        ..request(node, owner)
    };
    let mut before = ledger(&[("10.65.0.0/31", 32)]);
    before.config.strict_affinity = true;
    before.assign(&asks("n1", "a", 10)).expect("an address");
    before.assign(&asks("n1", "b", 10)).expect("an address");
    before.release("a");
    let mut ledger = stored(&before);
    refusal(&mut ledger, &asks("n2", "c", 10));
    ledger.assign(&asks("n2", "c", 11)).expect("what nobody uses");
    assert_eq!(kinds(&ledger.writes()), ["pending", "pending deletion", "handle", "block", "confirmed", "no claim"]);
    let mut owners = owners(&ledger);
    owners.sort();
    assert_eq!(owners, ["host:n1", "host:n2"]);
    refusal(&mut ledger, &asks("n2", "d", 20));
}

#[test]
fn ipam_18_a_claim_that_a_crash_left_behind_is_taken_up_by_its_node_and_no_other_waits_for_it() {
    for state in [AffinityState::Pending, AffinityState::PendingDeletion, AffinityState::Confirmed] {
        let mut before = ledger(&[("10.65.0.0/24", 26)]);
        let cidr = "10.65.0.64/26".parse().expect("a network");
        let claim = BlockAffinity::new(&"n1".into(), cidr, state);
        before.affinities = [(claim.name(), Kept { revision: Some("7".into()), value: claim })].into_iter().collect();
        let mut own = before.clone();
        own.assign(&request("n1", "a")).expect("an address");
        assert!(own.blocks.contains_key(&cidr), "{state:?}");
        let confirmed = if state == AffinityState::Confirmed {
            &["handle", "block"][..]
        } else {
            &["handle", "block", "confirmed"]
        };
        assert_eq!(kinds(&own.writes()), confirmed, "{state:?}");
        let mut others = before.clone();
        for node in 0..4 {
            others.assign(&request(&format!("m{node}"), &format!("h{node}"))).expect("an address");
        }
        assert_eq!(others.blocks.len(), 4, "a claim without a block keeps nobody from it");
    }
}

#[test]
fn what_is_not_all_there_says_so_instead_of_claiming_borrowing_or_freeing_by_guess() {
    let mut whole = ledger(&[("10.65.0.0/30", 31)]);
    whole.assign(&request("n1", "a")).expect("an address");
    let mut part = Ledger { is_partial: true, ..stored(&whole) };
    part.assign(&request("n1", "b")).expect("of the block that is known");
    assert!(!part.is_short);
    assert!(part.assign(&request("n1", "c")).is_err() && part.is_short);
    let mut part =
        Ledger { is_partial: true, affinities: Tracked::default(), handles: Tracked::default(), ..stored(&whole) };
    part.release("a");
    assert!(part.is_short, "nothing says where it may have something");
    let mut part = Ledger { is_partial: true, ..stored(&whole) };
    assert!(part.assign(&wish("d", "10.65.0.3")).is_ok() && part.is_short, "its block may be another's");
}

#[test]
fn ipam_6_blocks_of_every_size_are_given_out_to_the_last_address() {
    for (cidr, size, count) in
        [("10.65.0.0/26", 26, 64), ("10.65.0.0/32", 32, 1), ("fd00::/122", 122, 64), ("fd00::/128", 128, 1)]
    {
        let mut ledger = ledger(&[(cidr, size)]);
        assert_eq!(served(&mut ledger, "n1", 0..count + 1), count as usize, "{cidr}");
        assert_eq!(ledger.blocks.len(), 1);
    }
    for (cidr, size) in [("10.65.0.0/16", 20), ("fd00::/112", 116)] {
        let mut ledger = ledger(&[(cidr, size)]);
        assert_eq!(served(&mut ledger, "n1", 0..3), 3);
        assert_eq!(ledger.blocks.values().map(|kept| kept.value.allocations.len()).collect::<Vec<_>>(), [4096]);
    }
}

#[test]
fn what_cools_down_is_refused_by_its_name_counted_where_all_is_full_and_kept_by_who_has_it() {
    let mut ledger = ledger(&[("10.65.0.0/31", 31)]);
    ledger.config = IpamConfig { cooldown: 60, ..ledger.config };
    ledger.clock =
        Clock { at: Duration::ZERO, now: "2026-11-27T08:00:00Z".into(), cooled: "2026-11-27T07:59:00Z".into() };
    let given = ledger.assign(&request("n1", "a")).expect("an address");
    ledger.assign(&request("n1", "b")).expect("an address");
    ledger.release("a");
    let named = wish("c", &given[0].to_string());
    let said = refusal(&mut ledger, &named);
    assert!(said.contains("given back at 2026-11-27T08:00:00Z") && said.contains("60 s later"), "{said}");
    let said = refusal(&mut ledger, &request("n1", "c"));
    assert!(said.contains("1 cool down for 60 s"), "{said}");
    // A pod has it all the same: the datastore was restored.
    ledger.claim_wanted(&named).expect("nobody else has it");
    assert_eq!(ledger.held_by("c"), given);
}
