//! From clsact to TCX: a new pod is guarded by filters at once, and by links once no pod waits for that.
//! In: pods that come, running flows. Out: what hangs on their interfaces, and every packet's fate.
//! Invariant: at every look each hook has a program of ours.
//! Never: waits by time; what the kernel lists is the sign.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use netlink::{Side, Socket};
use std::time::{Duration, Instant};
use tests::{
    NodeSpec, PodSpec,
    Probe::Tcp,
    steady::Steady,
    wait::{PATIENCE, wait_until},
};

/// x/a lets in x/b only.
const FROM_B: &str =
    "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }";
/// After the last pod, before the first move: a look within it must find filters.
const QUIET: Duration = Duration::from_millis(900);

/// How a pod's two hooks are guarded: by a link, by a filter.
fn guards(s: &Story, pod: &str) -> Result<[(bool, bool); 2]> {
    let host = s.pod(pod)?.host_interface();
    let links = s.node.namespace().ip_json(&format!("link show dev {host}"))?;
    let index = links[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).context("no index")?;
    s.node.namespace().inside(|| {
        let mut socket = Socket::open()?;
        let mut one = |hook, side| -> Result<(bool, bool)> {
            // Filters first: a move between the two looks shows as both, never as none.
            let filters = socket.filters(model::Ifindex(index), side)?;
            let (_, programs) = SchedClassifier::query_tcx(index, hook)?;
            let link =
                programs.iter().any(|program| program.name_as_str().is_some_and(|name| name.contains("workload")));
            Ok((link, filters.iter().any(|filter| filter.name.starts_with("tortie/"))))
        };
        Ok([one(TcAttachType::Ingress, Side::Ingress)?, one(TcAttachType::Egress, Side::Egress)?])
    })
}

/// Waits until links alone guard the pods; no look on the way finds a hook without a program.
fn moved(s: &Story, pods: &[&str]) -> Result<()> {
    wait_until("all programs are attached by TCX", PATIENCE, || {
        let mut all = true;
        for pod in pods {
            let hooks = guards(s, pod)?;
            ensure!(
                hooks.iter().all(|(link, filter)| *link || *filter),
                "{pod} has a hook without a program: {hooks:?}"
            );
            all &= hooks == [(true, false); 2];
        }
        Ok(all)
    })
}

#[test]
fn own_2_a_new_pod_is_guarded_by_filters_and_then_by_links_and_no_packet_is_lost_or_let_through() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        s.policy("x/p", FROM_B)?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        let target = |port| (s.pods["x/a"].address(), port).into();
        let (a, b, c) = (s.pods["x/a"].namespace(), s.pods["x/b"].namespace(), s.pods["x/c"].namespace());
        let allowed = Steady::start(b, a, target(5300), 1, Duration::from_millis(1))?;
        let refused = Steady::start(c, a, target(5301), 1, Duration::from_millis(1))?;
        let tcp = s.pods["x/b"].tcp_stream(&s.pods["x/a"], 80)?;
        moved(s, &["x/a", "x/b", "x/c"])?;
        // The next one begins with filters again, under the same flows; the others stay where they are.
        let added = Instant::now();
        s.add(&PodSpec::new("x/d"))?;
        let first = guards(s, "x/d")?;
        // A machine that was away for so long has moved it meanwhile.
        assert!(first == [(false, true); 2] || added.elapsed() > QUIET, "{first:?}");
        assert_eq!(guards(s, "x/a")?, [(true, false); 2]);
        // What the node itself sends goes through the stack.
        let d = s.pod("x/d")?;
        let own =
            Steady::start(s.node.namespace(), d.namespace(), (d.address(), 5302).into(), 1, Duration::from_millis(1))?;
        moved(s, &["x/a", "x/b", "x/c", "x/d"])?;
        let again = tcp.sent_again([s.pod("x/a")?.namespace(), s.pod("x/b")?.namespace()])?;
        let (allowed, refused, tcp) = (allowed.stop()?, refused.stop()?, tcp.stop()?);
        assert_eq!(allowed.missing, [0; 0], "of {}", allowed.sent);
        let own = own.stop()?;
        assert_eq!(own.missing, [0; 0], "of the node's own {}", own.sent);
        assert!(refused.sent > 0 && refused.arrived == 0, "{refused:?}");
        assert_eq!((tcp.lost(), again), (0, 0), "of {}", tcp.sent);
        // Nobody else was at it.
        assert_eq!(s.node.show("status")?["driftRepaired"], serde_json::json!([]));
        Ok(())
    })
}

#[test]
fn own_2_kills_on_the_way_from_filters_to_links_leave_no_hook_open() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        s.policy("x/p", FROM_B)?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        let target = (s.pods["x/a"].address(), 5301).into();
        let refused =
            Steady::start(s.pods["x/c"].namespace(), s.pods["x/a"].namespace(), target, 1, Duration::from_millis(1))?;
        for round in 0..3 {
            s.add(&PodSpec::new(&format!("x/d{round}")))?;
            // Killed as soon as the first of the new one's hooks is moved, or before.
            let new = format!("x/d{round}");
            wait_until("the first hook is moved", PATIENCE, || Ok(guards(s, &new)?.iter().any(|(link, _)| *link)))?;
            s.node.agent.kill()?;
            let hooks = guards(s, &new)?;
            assert!(hooks.iter().all(|(link, filter)| *link || *filter), "{hooks:?}");
            s.expect_now(Tcp(80), "x/a\n x/b .\n x/c X")?;
            s.node.start()?;
        }
        moved(s, &["x/a", "x/b", "x/c", "x/d0", "x/d1", "x/d2"])?;
        let refused = refused.stop()?;
        assert!(refused.sent > 0 && refused.arrived == 0, "{refused:?}");
        // In the middle once more, and everything away.
        s.add(&PodSpec::new("x/e"))?;
        wait_until("the first hook is moved", PATIENCE, || Ok(guards(s, "x/e")?.iter().any(|(link, _)| *link)))?;
        s.node.agent.stop()?;
        let cleaned = s.node.cleanup()?;
        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        for pod in ["x/a", "x/d2", "x/e"] {
            assert_eq!(guards(s, pod)?, [(false, false); 2], "{pod}");
        }
        Ok(())
    })
}

#[test]
fn what_is_asked_for_strictly_is_attached_so_at_once() -> Result<()> {
    for (way, wanted) in [("tcx", (true, false)), ("clsact", (false, true))] {
        let spec = NodeSpec::new(1).argument("--attach").argument(way);
        crate::story::story_on(spec, &["x/a"], |s| {
            assert_eq!(guards(s, "x/a")?, [wanted; 2], "{way}");
            assert_eq!(s.node.show("status")?["attachment"], way);
            Ok(())
        })?;
    }
    Ok(())
}
