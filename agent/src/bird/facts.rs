//! What the World says of BGP, for who writes BIRD's configuration.
//! In: the World. Out: [`Facts`], without passwords.
//! Invariant: services are looked at only where an address of one may be told by itself.
//! Never: reads anything but the World.

use bgp::Facts;
use calc::World;
use model::BgpConfiguration;

pub fn of(world: &World) -> Facts {
    let said = world.bgp();
    let asks = bgp::needs_slices(said.configurations.get(BgpConfiguration::DEFAULT));
    let (services, slices) = if asks { world.services_and_slices() } else { Default::default() };
    Facts {
        node: world.node().to_string(),
        nodes: world.nodes().map(|node| (node.name.clone(), node.clone())).collect(),
        configurations: said.configurations.clone(),
        peers: said.peers.clone(),
        filters: said.filters.clone(),
        pools: world.pools().cloned().collect(),
        blocks: world.own_blocks(),
        networks: world.own_networks(),
        leaves_routes: world.leaves_routes(),
        services,
        slices,
        ..Facts::default()
    }
}
