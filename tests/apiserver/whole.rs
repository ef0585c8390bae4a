//! The whole way: controllers, scheduler, kubelet, containerd and runc, tortie-cni. A Deployment from its first pod to its last.
//! In: kubectl, as a user types it. Out: what one pod hears from another, and what is left at the end.
//! Invariant: every program is the one that clusters run; none of them knows that this is a test.
//! Never: asks the agent what a packet can show.

use crate::shop::{Shop, TIMEOUT};
use anyhow::{Context as _, Result};
use tests::{Cluster, Kubelet, NodeSpec, cluster::NATIVE, wait};

fn endpoints(shop: &Shop) -> Result<usize> {
    shop.node.show("endpoints")?.as_array().map(Vec::len).context("a list")
}

fn until_nothing_is_left(shop: &Shop) -> Result<()> {
    shop.until_nothing_is_left()?;
    wait::wait_until("the agent knows no pod", wait::PATIENCE, || Ok(endpoints(shop)? == 0))
}

#[test]
fn a_deployment_is_rolled_out_policed_scaled_drained_and_deleted_and_nothing_is_left() -> Result<()> {
    let mut cluster = Cluster::served(NATIVE)?;
    cluster.start_controllers()?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    let kubelet = Kubelet::start(&cluster, &node)?;
    let shop = Shop { cluster: &cluster, node: &node, kubelet: &kubelet };
    live(&shop).with_context(|| format!("the agent's log ends so:\n{}", node.agent.log_tail()))
}

fn live(shop: &Shop) -> Result<()> {
    shop.open()?;
    shop.rolled_out()?;
    shop.until("client", true)?;
    shop.until("stranger", true)?;
    shop.police()?;
    shop.until_policed()?;

    // New pods are policed from their first packet on; the kubelet's probes are let in.
    shop.kubectl(&["set", "env", "-n", "shop", "deployment/web", "ROUND=2"])?;
    shop.rolled_out()?;
    shop.until_policed()?;

    shop.kubectl(&["scale", "-n", "shop", "deployment/web", "--replicas=4"])?;
    shop.rolled_out()?;
    wait::wait_until("the agent knows six pods", wait::PATIENCE, || Ok(endpoints(shop)? == 6))?;

    shop.kubectl(&["drain", shop.node.name(), "--force", "--ignore-daemonsets", TIMEOUT])?;
    until_nothing_is_left(shop)?;
    shop.kubectl(&["uncordon", shop.node.name()])?;
    shop.rolled_out()?;
    shop.until_policed()?;

    shop.kubectl(&["delete", "namespace", "shop", TIMEOUT])?;
    until_nothing_is_left(shop)
}
