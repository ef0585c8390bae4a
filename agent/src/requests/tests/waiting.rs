//! Services that do not fit at a first start: who is served, who waits, and when those who wait are served.
//! In: services, and room for so many. Out: whose frontends are in force, what is said of the others.
//! Invariant: as of `tests`.
//! Never: as of `tests`.

use super::*;

/// A Service of one frontend, made in that year.
fn shop(name: &str, year: u32) -> Update {
    let (namespace, name) = name.split_once('/').expect("NAMESPACE/NAME");
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{namespace: {namespace}, name: {name}, \
         creationTimestamp: '{year}-01-01T00:00:00Z'}}, spec: {{clusterIP: 10.96.{}.{}, ports: [{{port: 80}}]}}}}",
        year % 256,
        name.len()
    );
    let objects = datastore::snapshot::file(Path::new("s.yaml"), &text).expect("the test writes a service");
    Update::Set(objects.into_iter().next().expect("one"))
}

/// Whose frontends are in force.
fn served(bench: &Bench) -> Vec<String> {
    bench.agent.kernel.served.iter().map(|port| port.service.to_string()).collect()
}

fn report(bench: &mut Bench, query: cni::protocol::Query) -> Value {
    match bench.ask(Operation::Query(query)) {
        Ok(Answer::Report { report }) => report,
        other => panic!("{other:?}"),
    }
}

fn not_in_force(bench: &mut Bench) -> Vec<String> {
    let status = report(bench, cni::protocol::Query::Show { table: "status".into() });
    serde_json::from_value(status["notInForce"].clone()).expect("lines")
}

/// An agent that has heard of these before anything was in force, and of room for so many.
fn cold(room: usize, services: &[Update]) -> Bench {
    let mut bench = Bench::before_the_datastore_has_spoken();
    bench.agent.kernel.room = Some(room);
    bench.agent.take(vec![Event::Updates(services.to_vec())]);
    bench.sync();
    bench
}

#[test]
fn of_services_that_do_not_fit_at_a_first_start_the_oldest_are_served_and_the_rest_is_named() {
    let services: Vec<_> = (2001..=2009)
        .map(|year| shop(&format!("x/of-{year}"), year))
        .chain([shop("default/kubernetes", 2020)])
        .collect();
    for room in 1..10 {
        let mut bench = cold(room, &services);
        let oldest = (2001..2000 + room).map(|year| format!("x/of-{year}"));
        assert_eq!(served(&bench), ["default/kubernetes".to_owned()].into_iter().chain(oldest).collect::<Vec<_>>());
        let told = not_in_force(&mut bench);
        assert_eq!(told.len(), 10 - room, "{told:?}");
        assert!(told.iter().all(|line| line.contains("is not served")), "{told:?}");
        let of = Some("x".to_owned());
        let shown = report(&mut bench, cni::protocol::Query::Services { of, after: None, backends: false });
        let rows = shown["rows"].as_array().expect("rows");
        let said = rows.iter().filter(|row| row["remarks"].to_string().contains("for want of room"));
        assert_eq!((rows.len(), said.count()), (9, 10 - room));
        assert!(bench.agent.ready() && bench.agent.world.services().count() == 10, "all are known");
    }
}

#[test]
fn services_that_wait_are_served_when_there_is_room_the_oldest_first_and_without_a_restart() {
    let services: Vec<_> = (2001..=2009).map(|year| shop(&format!("x/of-{year}"), year)).collect();
    let mut bench = cold(2, &services);
    bench.agent.tick();
    assert_eq!(served(&bench), ["x/of-2001", "x/of-2002"], "there is still none");
    let gone = ResourceKey::Service(ServiceId { namespace: "x".into(), name: "of-2001".into() });
    bench.agent.take(vec![Event::Updates(vec![Update::Gone(gone)])]);
    bench.agent.tick();
    assert_eq!(served(&bench), ["x/of-2002", "x/of-2003"]);
    // One that is told anew is tried at once, and put off again.
    bench.agent.take(vec![Event::Updates(vec![shop("x/of-2007", 2010)])]);
    assert_eq!((served(&bench).len(), not_in_force(&mut bench).len()), (2, 6));
    let late = ServiceId { namespace: "x".into(), name: "of-2009".into() };
    assert!(bench.agent.world.is_put_off(&late));
    bench.agent.take(vec![Event::Updates(vec![Update::Gone(ResourceKey::Service(late.clone()))])]);
    assert!(!bench.agent.world.is_put_off(&late), "what is gone waits for nothing");
    bench.agent.kernel.room = Some(9);
    for _ in 0..4 {
        bench.agent.tick();
    }
    assert_eq!((served(&bench).len(), not_in_force(&mut bench)), (7, Vec::new()));
    assert!(bench.agent.service_remarks().is_empty());
}

#[test]
fn who_is_served_is_not_put_off_for_one_that_is_older_or_wants_more() {
    let young = || ServiceId { namespace: "x".into(), name: "young".into() };
    for (room, put_off) in [(1, true), (0, false)] {
        let mut bench = Bench::before_the_datastore_has_spoken();
        bench.agent.kernel.room = Some(room);
        // By an earlier agent.
        bench.agent.kernel.served = [ServicePortId { service: young(), port: "".into() }].into();
        bench.agent.take(vec![Event::Updates(vec![shop("x/young", 2009), shop("x/old", 2001)])]);
        bench.sync();
        assert_eq!(served(&bench), ["x/young"], "room for {room}");
        let old = ServiceId { namespace: "x".into(), name: "old".into() };
        assert_eq!(bench.agent.world.is_put_off(&old), put_off, "room for {room}");
        assert!(!bench.agent.world.is_put_off(&young()) && !not_in_force(&mut bench).is_empty());
    }
}
