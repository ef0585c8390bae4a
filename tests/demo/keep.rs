//! What `--keep` leaves, how to play with it, and how it is removed.
//! In: a stage after its story. Out: namespaces, an agent and servers that outlive the demo; `--remove` ends them.
//! Invariant: everything kept carries one stem, and every process is written down with its program.
//! Never: ends a process that is not the program that was written down.

use crate::stage::{CAST, DATABASE, Stage};
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    env,
    fmt::Write as _,
    fs,
    net::{Ipv6Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};
use tests::{netns, node, server, wait};

/// What the names of everything kept begin with.
pub const STEM: &str = "tortie-demo";
const PROCESSES: &str = "processes";

/// Replaces the servers by processes of their own, and says how to go on.
pub fn leave(mut stage: Stage) -> Result<()> {
    let own = env::current_exe().context("asking for the demo's own path")?;
    let mut processes = String::new();
    let agent = stage.node.agent.pid().context("the agent does not run")?;
    writeln!(processes, "{agent} {}", stage.node.program().display())?;
    for (pod, (id, ports)) in stage.pods.iter_mut().zip(CAST) {
        pod.silence();
        pod.keep();
        if ports.is_empty() {
            continue;
        }
        let mut command = pod.namespace().command(&own)?;
        command.arg("serve").arg(id).args(ports.iter().map(ToString::to_string));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let server = command.spawn().context("starting a pod's servers")?;
        writeln!(processes, "{} {}", server.id(), own.display())?;
    }
    stage.node.keep();
    stage.cluster.keep();
    fs::write(stage.cluster.directory().join(PROCESSES), processes).context("writing down what runs")?;
    print_hints(&stage, &own)
}

fn print_hints(stage: &Stage, own: &Path) -> Result<()> {
    let (client, db) = (stage.pod("shop/client")?, stage.pod("shop/db")?);
    let enter = format!("nsenter --net={}", client.namespace().path().display());
    let tortie = format!("{} ", stage.node.program().display());
    let socket = format!("--socket {}", stage.node.socket().display());
    let manifests = stage.cluster.datastore();
    println!("\nAll of it came true, and it is left up. To play with it:\n");
    println!("  in a pod     {enter} bash");
    println!("  be refused   {enter} timeout 2 bash -c 'head -1 < /dev/tcp/{}/{DATABASE}'", db.address());
    println!("  look         {tortie}show endpoints {socket}");
    println!("  ask why      {tortie}explain --from shop/client --to shop/db --port {DATABASE} --proto tcp {socket}");
    println!("  open it all  rm {}", manifests.join("policy.yaml").display());
    println!("  your own     put NetworkPolicies into {}", manifests.display());
    println!("  the log      tail -f {}", stage.node.log_path().display());
    println!("  remove it    {} --remove", own.display());
    Ok(())
}

/// Serves until it is killed.
pub fn serve(name: &str, ports: &[u16]) -> Result<()> {
    let listeners = ports
        .iter()
        .map(|port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).with_context(|| format!("listening on {port}")))
        .collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                for stream in listener.incoming().flatten() {
                    greet(stream, name);
                }
            });
        }
    });
    Ok(())
}

fn greet(stream: TcpStream, name: &str) {
    let greeting = format!("{name}\n");
    thread::spawn(move || server::echo(stream, &greeting));
}

/// Ends the processes, unmounts, removes namespaces and files.
pub fn remove() -> Result<()> {
    let directory = env::temp_dir().join(STEM);
    let processes = fs::read_to_string(directory.join(PROCESSES)).unwrap_or_default();
    for line in processes.lines() {
        end(line).with_context(|| format!("ending {line}"))?;
    }
    node::detach(&directory.join("node/bpf"));
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in namespaces.filter_map(|entry| entry.file_name().into_string().ok()) {
        if name.starts_with(&format!("{STEM}-")) {
            netns::remove(&name);
        }
    }
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    println!("Removed.");
    Ok(())
}

/// `PID PROGRAM`: ended if that process still is that program.
fn end(line: &str) -> Result<()> {
    let (number, program) = line.split_once(' ').context("not a process")?;
    let pid = Pid::from_raw(number.parse().context("not a pid")?).context("not a pid")?;
    let runs = PathBuf::from(format!("/proc/{number}/exe"));
    // A rebuilt program is still the one that was started.
    let same = || fs::read_link(&runs).is_ok_and(|now| now.to_string_lossy().trim_end_matches(" (deleted)") == program);
    if !same() {
        return Ok(());
    }
    kill_process(pid, Signal::TERM).context("signalling it")?;
    wait::wait_until("it ends", wait::PATIENCE, || Ok(!same()))
}
