//! Change without harm: services change, backends come and go, the agent dies; who asks through a service does not notice.
//! In: a service under requests and running flows, and what is done to it meanwhile. Out: every request that failed, every word
//! that was lost, every segment that TCP sent again.
//! Invariant: requests and flows run before anything is done, and go on after it; each request is a flow of its own.
//! Never: forgives one.

use crate::{
    services::{LEAVING, READY, answered_by, expect, request, service, slices, vips},
    story::{Story, story, story_on},
};
use anyhow::{Context as _, Result, ensure};
use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use tests::{
    NodeSpec, Outcome, Pod, PodSpec,
    Probe::{Tcp, Udp},
    flow::Stream,
    probe::{self, probe},
    wait::{PATIENCE, wait_until},
};

/// Requests that follow something before the next thing is done.
const MANY: u64 = 300;
/// Between two requests of one asker: what it opens in a test stays below [`QUOTA`].
const PAUSE: Duration = Duration::from_millis(5);
/// Flows that the asking pod may own.
const QUOTA: &str = "60000";

/// Requests, one after the other, by both protocols to both addresses of the shop.
struct Askers {
    stop: Arc<AtomicBool>,
    /// Of each asker.
    done: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Askers {
    fn start(client: &Pod) -> Result<Self> {
        let mut askers = Self { stop: Arc::default(), done: Vec::new(), threads: Vec::new() };
        for vip in vips() {
            askers.ask(client, &format!("TCP {vip}"), move || request(SocketAddr::new(vip, 443)))?;
            askers.ask(client, &format!("UDP {vip}"), move || question(&socket(vip)?).map(drop))?;
        }
        askers.go_on("at first")?;
        Ok(askers)
    }

    fn ask(&mut self, client: &Pod, what: &str, ask: impl Fn() -> Result<()> + Send + 'static) -> Result<()> {
        let (stop, done) = (Arc::clone(&self.stop), Arc::new(AtomicU64::new(0)));
        self.done.push(Arc::clone(&done));
        let what = what.to_owned();
        // A thread that is made inside stays inside.
        let run = move || {
            while !stop.load(Ordering::Relaxed) {
                ask().with_context(|| format!("{what}: request {}", done.load(Ordering::Relaxed)))?;
                done.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            Ok(())
        };
        self.threads.push(client.namespace().inside(|| Ok(thread::spawn(run)))?);
        Ok(())
    }

    /// Each of them has so many requests more answered, of which the first began after the call.
    fn go_on_by(&mut self, count: u64, what: &str) -> Result<()> {
        let before: Vec<_> = self.done.iter().map(|done| done.load(Ordering::Relaxed)).collect();
        wait_until(&format!("requests go on {what}"), PATIENCE, || {
            let is_over = self.threads.iter().any(JoinHandle::is_finished);
            let mut counts = self.done.iter().zip(&before);
            Ok(is_over || counts.all(|(done, before)| done.load(Ordering::Relaxed) > before + count))
        })?;
        match self.threads.iter().position(JoinHandle::is_finished) {
            Some(over) => join(self.threads.swap_remove(over)).with_context(|| format!("a request failed {what}")),
            None => Ok(()),
        }
    }

    fn go_on(&mut self, what: &str) -> Result<()> {
        self.go_on_by(1, what)
    }

    /// Every one of them was answered.
    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(join)
    }
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A node whose pods may ask so much.
fn node() -> NodeSpec {
    NodeSpec::new(1).argument("--flow-quota").argument(QUOTA)
}

fn socket(vip: IpAddr) -> Result<UdpSocket> {
    let to = SocketAddr::new(vip, 53);
    let socket = probe::socket(to).context("binding")?;
    socket.connect(to).context("connecting")?;
    socket.set_read_timeout(Some(PATIENCE)).context("a socket option")?;
    Ok(socket)
}

/// Who answers a datagram.
fn question(socket: &UdpSocket) -> Result<String> {
    socket.send(b"word").context("sending a datagram")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).context("waiting for the answer to a datagram")?;
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    answer.strip_suffix("\nword").map(str::to_owned).with_context(|| format!("another answer: {answer:?}"))
}

/// Flows that are to last, by both protocols to both addresses of the shop.
struct Flows {
    tcp: Vec<Stream>,
    udp: Vec<Stream>,
}

impl Flows {
    fn start(client: &Pod) -> Result<Self> {
        let from = client.namespace();
        let tcp = vips().into_iter().map(|vip| Stream::tcp(from, vip, 443)).collect::<Result<_>>()?;
        let udp = vips().into_iter().map(|vip| Stream::udp(from, vip, 53)).collect::<Result<_>>()?;
        Ok(Self { tcp, udp })
    }

    /// Nothing of them was lost, or sent twice.
    fn stop(self, ends: [&Pod; 2]) -> Result<()> {
        for stream in self.tcp {
            let again = stream.sent_again(ends.map(Pod::namespace))?;
            let report = stream.stop()?;
            ensure!(report.lost() == 0 && report.sent > 0 && again == 0, "TCP: {report:?}, {again} sent again");
        }
        for stream in self.udp {
            let report = stream.stop()?;
            ensure!(report.lost() == 0 && report.sent > 0, "UDP: {report:?}");
        }
        Ok(())
    }
}

#[test]
fn a_deployment_that_replaces_its_pods_under_load_loses_no_request() -> Result<()> {
    story_on(node(), &["x/a", "x/w", "x/p0", "x/p1"], |s| {
        service(s, "")?;
        slices(s, &[("x/p0", READY), ("x/p1", READY)])?;
        answered_by(s, "x/w", &["x/p0", "x/p1"])?;
        let client = s.pods.remove("x/a").context("no pod x/a")?;
        let mut askers = Askers::start(&client)?;
        // As the Deployment's controller, the kubelet and the slices' controller do it, one pod at a time.
        for number in 0..3 {
            let [old, stays, new] = [0, 1, 2].map(|of| format!("x/p{}", number + of));
            let (old, stays, new) = (old.as_str(), stays.as_str(), new.as_str());
            s.add(&PodSpec::new(new))?;
            slices(s, &[(old, READY), (stays, READY), (new, "ready: false, serving: false")])?;
            answered_by(s, "x/w", &[old, stays])?;
            slices(s, &[(old, READY), (stays, READY), (new, READY)])?;
            answered_by(s, "x/w", &[old, stays, new])?;
            slices(s, &[(old, LEAVING), (stays, READY), (new, READY)])?;
            answered_by(s, "x/w", &[stays, new])?;
            // It goes when it has answered what it was asked.
            askers.go_on("while a pod is about to end")?;
            slices(s, &[(stays, READY), (new, READY)])?;
            answered_by(s, "x/w", &[stays, new])?;
            drop(s.pods.remove(old));
            askers.go_on("after a pod's end")?;
        }
        askers.stop()
    })
}

#[test]
fn backends_that_come_and_go_break_no_flow_of_another() -> Result<()> {
    story(&["x/a", "x/w", "x/b", "x/c", "x/d"], |s| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        answered_by(s, "x/w", &["x/b"])?;
        let flows = Flows::start(s.pod("x/a")?)?;
        for (beside, other) in [("x/c", "x/d"), ("x/d", "x/c"), ("x/c", "x/d")] {
            // Slots of what is gone are others' soon.
            slices(s, &[(beside, READY), ("x/b", READY)])?;
            answered_by(s, "x/w", &["x/b", beside])?;
            slices(s, &[(beside, READY), ("x/b", LEAVING)])?;
            answered_by(s, "x/w", &[beside])?;
            slices(s, &[(other, READY), ("x/b", LEAVING)])?;
            answered_by(s, "x/w", &[other])?;
            slices(s, &[("x/b", READY)])?;
            answered_by(s, "x/w", &["x/b"])?;
        }
        flows.stop([s.pod("x/a")?, s.pod("x/b")?])
    })
}

#[test]
fn datagrams_of_one_socket_go_on_to_another_backend_when_theirs_is_gone() -> Result<()> {
    story(&["x/a", "x/w", "x/b", "x/c"], |s| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        answered_by(s, "x/w", &["x/b"])?;
        for vip in vips() {
            let socket = s.pod("x/a")?.namespace().inside(|| socket(vip))?;
            ensure!(question(&socket)? == "x/b", "the only backend");
            for now in ["x/c", "x/b", "x/c", "x/b"] {
                slices(s, &[(now, READY)])?;
                let mut asked = 0;
                // Each of them is answered, by the one or the other.
                while question(&socket).with_context(|| format!("question {asked} on the way to {now}"))? != now {
                    asked += 1;
                    ensure!(asked < 1_000_000, "{now} is never asked");
                }
                answered_by(s, "x/w", &[now])?;
                ensure!(question(&socket)? == now, "it went back");
            }
        }
        Ok(())
    })
}

#[test]
fn an_agent_that_is_dead_for_long_and_started_again_changes_nothing_for_packets_through_services() -> Result<()> {
    story_on(node(), &["x/a", "x/w", "x/b", "x/c"], |s| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        answered_by(s, "x/w", &["x/b"])?;
        let (flows, mut askers) = (Flows::start(s.pod("x/a")?)?, Askers::start(s.pod("x/w")?)?);
        for changed in [false, true, false] {
            s.node.agent.kill()?;
            if changed {
                // What is said meanwhile is heard afterwards, and cuts nobody.
                slices(s, &[("x/b", LEAVING), ("x/c", READY)])?;
            }
            askers.go_on_by(MANY, "while the agent is dead")?;
            s.node.start()?;
            askers.go_on_by(MANY, "with the next agent")?;
            answered_by(s, "x/w", &[if changed { "x/c" } else { "x/b" }])?;
            slices(s, &[("x/b", READY), ("x/c", LEAVING)])?;
            answered_by(s, "x/w", &["x/b"])?;
            askers.go_on("when the former is asked again")?;
        }
        askers.stop()?;
        flows.stop([s.pod("x/a")?, s.pod("x/b")?])
    })
}

/// Services of which the last can be asked, and their slices with one endpoint each, or none.
fn crowd(count: u16, endpoint: Option<IpAddr>) -> String {
    let mut text = String::new();
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        let endpoints = endpoint.map_or_else(String::new, |address| format!("{{\"addresses\": [\"{address}\"]}}"));
        let _ = write!(
            text,
            "---\n{{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {{\"name\": \"s{number}\", \"namespace\": \"crowd\"}}, \
             \"spec\": {{\"clusterIP\": \"10.97.{high}.{low}\", \"ports\": [{{\"port\": 80}}]}}}}\n\
             ---\n{{\"apiVersion\": \"discovery.k8s.io/v1\", \"kind\": \"EndpointSlice\", \"metadata\": {{\"name\": \"s{number}-1\", \
             \"namespace\": \"crowd\", \"labels\": {{\"kubernetes.io/service-name\": \"s{number}\"}}}}, \"addressType\": \"IPv4\", \
             \"endpoints\": [{endpoints}], \"ports\": [{{\"port\": 80}}]}}\n"
        );
    }
    text
}

#[test]
fn ten_thousand_services_that_come_change_and_go_at_once_harm_no_flow() -> Result<()> {
    const COUNT: u16 = 10_000;
    story_on(node(), &["x/a", "x/w", "x/b"], |s| {
        service(s, "")?;
        slices(s, &[("x/b", READY)])?;
        answered_by(s, "x/w", &["x/b"])?;
        let (flows, mut askers) = (Flows::start(s.pod("x/a")?)?, Askers::start(s.pod("x/w")?)?);
        let last = IpAddr::from([[10, 97], (COUNT - 1).to_be_bytes()].concat().try_into().unwrap_or([0; 4]));
        let met = |s: &Story, wanted| {
            let from = s.pod("x/w")?.namespace();
            wait_until(&format!("the last of many: {wanted}"), 3 * PATIENCE, || {
                Ok(probe(from, last, Tcp(80))? == wanted)
            })
        };
        let endpoint = s.pod("x/b")?.address();
        s.cluster.manifest("crowd", &crowd(COUNT, Some(endpoint)))?;
        met(s, Outcome::Allowed)?;
        s.cluster.manifest("crowd", &crowd(COUNT, None))?;
        met(s, Outcome::Reset)?;
        s.cluster.manifest("crowd", &crowd(COUNT, Some(endpoint)))?;
        met(s, Outcome::Allowed)?;
        s.cluster.remove("crowd")?;
        wait_until("nobody is at the last of many any more", 3 * PATIENCE, || {
            Ok(probe(s.pod("x/w")?.namespace(), last, Tcp(80))? != Outcome::Allowed)
        })?;
        askers.go_on("when the others are gone")?;
        expect(s, "x/w", Udp(53), Outcome::Allowed)?;
        askers.stop()?;
        flows.stop([s.pod("x/a")?, s.pod("x/b")?])
    })
}
