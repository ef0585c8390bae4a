//! Which pools a pod gets addresses of, by Calico's rules (libcalico-go/lib/ipam/ipam.go, determinePools).
//! In: pools, and a wish. Out: for each family the pools that are asked, in order; or an address that was asked for.
//! Invariant: who asks for a pool by name gets it whatever it selects; one that cannot be had refuses the whole wish (IPAM-16).
//! Never: looks at blocks.

use crate::{AssignError, Ledger, Request};
use model::{Family, IpPool, Truth};
use std::net::IpAddr;

/// One address that is to be had.
pub(crate) enum Want {
    /// Exactly this, of this pool.
    This(IpAddr, IpPool),
    /// Any of these pools, the first that has one.
    Of(Vec<IpPool>),
}

impl Ledger {
    /// What the wish comes to, IPv4 first.
    pub(crate) fn wants(&self, request: &Request) -> Result<Vec<Want>, AssignError> {
        if request.tunnel.is_none() && !self.pools.values().any(is_of_pods) {
            return Err(AssignError::NoPool);
        }
        let mut wants = Vec::new();
        for family in [Family::V4, Family::V6] {
            if let Some(address) = request.wanted.iter().find(|address| Family::of(**address) == family) {
                let pool = self.pool_of(*address).filter(|pool| is_of_pods(pool));
                let pool = pool.ok_or(AssignError::NotInPool { address: *address })?;
                wants.push(Want::This(*address, pool.clone()));
                continue;
            }
            let is_asked = request.families.contains(&family) || request.pools.contains_key(&family);
            if !request.families.is_empty() && !request.families.contains(&family) {
                continue;
            }
            let pools = self.pools_for(request, family)?;
            if !pools.is_empty() {
                wants.push(Want::Of(pools));
            } else if is_asked {
                return Err(AssignError::NoPoolForPod { family: name_of(family) });
            }
        }
        match (wants.is_empty(), self.pools.values().find(|pool| is_of_pods(pool) && !pool.manual)) {
            (true, Some(pool)) => Err(AssignError::NoPoolForPod { family: name_of(pool.cidr.family()) }),
            (true, None) => Err(AssignError::NoPool),
            (false, _) => Ok(wants),
        }
    }

    /// The pool that an address lies in.
    pub(crate) fn pool_of(&self, address: IpAddr) -> Option<&IpPool> {
        self.pools.values().find(|pool| pool.cidr.contains(address))
    }

    fn pools_for(&self, request: &Request, family: Family) -> Result<Vec<IpPool>, AssignError> {
        if let Some(asked) = request.pools.get(&family).filter(|asked| !asked.is_empty()) {
            return asked.iter().map(|text| self.asked_for(text, family, request.tunnel.is_some()).cloned()).collect();
        }
        let is_selected = |pool: &&IpPool| {
            pool.cidr.family() == family
                && is_of_pods(pool)
                && !pool.manual
                && pool.nodes.matches(&request.node_labels) == Truth::Yes
                && pool.namespaces.matches(&request.namespace_labels) == Truth::Yes
        };
        Ok(self.pools.values().filter(is_selected).cloned().collect())
    }

    fn asked_for(&self, text: &str, family: Family, is_tunnel: bool) -> Result<&IpPool, AssignError> {
        let refused = |reason| AssignError::BadPool { pool: text.to_owned(), reason };
        let is_it = |pool: &&IpPool| pool.name == text || text.parse() == Ok(pool.cidr);
        let pool = self.pools.values().find(is_it).ok_or(refused("there is none of that name or network"))?;
        if pool.disabled {
            return Err(refused("it is disabled"));
        }
        if pool.cidr.family() != family {
            return Err(refused("it is of the other family"));
        }
        if is_tunnel && !pool.uses.tunnel {
            return Err(refused("its allowedUses have no Tunnel"));
        }
        if !is_tunnel && !pool.uses.workload {
            return Err(refused("its allowedUses have no Workload"));
        }
        Ok(pool)
    }
}

fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Whether pods get addresses of it (IPAM-13).
pub(crate) fn is_of_pods(pool: &IpPool) -> bool {
    pool.uses.workload && !pool.disabled
}
