//! What the network between this device and the others does, for people and for scripts.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use peers_nat::{Allocation, Behaviour, Filtering, Kind, Mapping};
use peers_wire::PeerId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::driver::Driver;
use crate::node::{Closed, Node};

/// What [`Node::netcheck`] found, in the terms of RFC 4787.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Netcheck {
    /// `unknown`, `blocked-udp`, `open`, `firewall`, `full-cone`, `addr-restricted`, `port-restricted` or `symmetric`.
    pub kind: String,
    /// `none`, `endpoint-independent`, `address-dependent`, `address+port-dependent`; none as long as it is not known.
    pub mapping: Option<String>,
    /// `none`, `address`, `address+port`; none as long as it is not known.
    pub filtering: Option<String>,
    /// `preserved`, `sequential`, `block`, `random`; none without NAT, or as long as it is not known.
    pub ports: Option<String>,
    /// From one port to the next, where they are sequential.
    pub step: Option<i16>,
    /// The lowest and the highest port seen, where they are from a block.
    pub block: Option<(u16, u16)>,
    /// Whether devices behind the same NAT reach each other by its public address.
    pub hairpin: Option<bool>,
    /// The address of this device as others see it.
    pub external: Option<IpAddr>,
    /// Addresses of its own sockets.
    pub listen: Vec<SocketAddr>,
    /// How long a silent flow that was answered is remembered.
    pub replied: Remembered,
    /// How long a silent flow that was never answered is remembered.
    pub unreplied: Remembered,
    /// A silent connection is used again after so many seconds.
    pub keep_alive_s: f64,
    /// Who reported.
    pub reporters: Vec<NetcheckReporter>,
    /// How many of them said what fits.
    pub agreed: usize,
    /// What all this means for the person here, one sentence each.
    pub means: Vec<String>,
}

/// A lifetime, as far as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Remembered {
    /// Seconds of silence after which the flow was still there.
    pub proven_s: Option<f64>,
    /// Seconds of silence after which it was gone.
    pub expired_s: Option<f64>,
}

/// A peer that said how it sees this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetcheckReporter {
    /// Who.
    pub id: PeerId,
    /// Its name, if it is a device of the user.
    pub name: Option<String>,
    /// Where it saw a socket of this device.
    pub seen: SocketAddr,
    /// Whether what it said fits the verdict.
    pub agrees: bool,
}

impl Node {
    /// Looks at the network: asks up to three peers out there, which takes about two seconds from when two are connected, and waits for that at most `wait`.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn netcheck(&self, wait: Duration) -> Result<Netcheck, Closed> {
        let until = Instant::now() + wait;
        let before = self
            .call(|driver, now, wall| {
                driver.stack.check_nat(now, wall);
                driver.stack.stats().nat.checks
            })
            .await?;
        loop {
            let (looked, found) = self.call(move |driver, _, _| (driver.stack.stats().nat.checks > before, netcheck(driver))).await?;
            if looked || found.kind == kind_name(Kind::Blocked) || Instant::now() >= until {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_PAUSE.min(until - Instant::now())).await;
        }
    }
}

const LOOK_PAUSE: Duration = Duration::from_millis(100);

fn netcheck(driver: &Driver) -> Netcheck {
    let (found, keep_alive) = driver.stack.behaviour();
    let reporters = found.reporters.iter().map(|reporter| NetcheckReporter {
        id: reporter.peer,
        name: driver.name_of(reporter.peer),
        seen: reporter.seen,
        agrees: reporter.agrees,
    });
    let remembered = |known: peers_nat::Lifetime| Remembered {
        proven_s: known.proven.map(|time| time.as_secs_f64()),
        expired_s: known.expired.map(|time| time.as_secs_f64()),
    };
    Netcheck {
        kind: kind_name(found.kind()).to_owned(),
        mapping: found.mapping.map(|mapping| mapping_name(mapping).to_owned()),
        filtering: found.filtering.map(|filtering| filtering_name(filtering).to_owned()),
        ports: found.allocation.map(|allocation| ports_name(allocation).to_owned()),
        step: if let Some(Allocation::Sequential { step }) = found.allocation { Some(step) } else { None },
        block: if let Some(Allocation::Block { low, high }) = found.allocation { Some((low, high)) } else { None },
        hairpin: found.hairpinning,
        external: found.external,
        listen: driver.local_addresses(),
        replied: remembered(found.replied),
        unreplied: remembered(found.unreplied),
        keep_alive_s: keep_alive.as_secs_f64(),
        reporters: reporters.collect(),
        agreed: found.agreed(),
        means: means(&found, keep_alive),
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unknown => "unknown",
        Kind::Blocked => "blocked-udp",
        Kind::Open => "open",
        Kind::Firewall => "firewall",
        Kind::FullCone => "full-cone",
        Kind::AddressRestricted => "addr-restricted",
        Kind::PortRestricted => "port-restricted",
        Kind::Symmetric => "symmetric",
    }
}

const fn mapping_name(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::None => "none",
        Mapping::EndpointIndependent => "endpoint-independent",
        Mapping::AddressDependent => "address-dependent",
        Mapping::AddressAndPortDependent => "address+port-dependent",
    }
}

const fn filtering_name(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "none",
        Filtering::AddressDependent => "address",
        Filtering::AddressAndPortDependent => "address+port",
    }
}

const fn ports_name(allocation: Allocation) -> &'static str {
    match allocation {
        Allocation::Preserved => "preserved",
        Allocation::Sequential { .. } => "sequential",
        Allocation::Block { .. } => "block",
        Allocation::Random => "random",
    }
}

/// What a person wants to know of it.
fn means(found: &Behaviour, keep_alive: Duration) -> Vec<String> {
    let kind = found.kind();
    let first = match (kind, found.allocation) {
        (Kind::Unknown, _) if found.reporters.is_empty() => {
            "Nothing is known yet: it takes two peers outside of your network. Those on your local network are reached as ever."
        }
        (Kind::Unknown, _) => "Your peers have not shown enough to tell what your router does: more of them may.",
        (Kind::Blocked, _) => {
            "Nobody answers by UDP: this network blocks it, or leads nowhere. Peers on your local network are reached, and by TCP those with a public address, who can carry what you say to others."
        }
        (Kind::Open, _) => "Anyone reaches you directly, and you can introduce others to each other.",
        (Kind::Firewall, _) => {
            "Your address is public, but a firewall lets in answers only. Others reach you directly once you have both spoken to a common peer."
        }
        (Kind::FullCone, _) => "Others reach you directly as soon as they know where you are.",
        (Kind::AddressRestricted | Kind::PortRestricted, _) => "Others reach you directly once you have both spoken to a common peer.",
        (Kind::Symmetric, Some(Allocation::Sequential { .. })) => {
            "Your router gives every destination a port of its own, one after the other. Most others reach you directly: the next port is guessed."
        }
        (Kind::Symmetric, _) => {
            "Your router gives every destination a port of its own. Others reach you directly after a short search. Two people with NATs like yours talk through a third."
        }
    };
    let mut means = vec![first.to_owned()];
    if found.hairpinning == Some(false) {
        means.push(
            "Two devices behind your router do not find each other by its public address: they meet on the local network.".to_owned(),
        );
    }
    let seconds = |time: Duration| format!("{:.0} s", time.as_secs_f64());
    let behind = matches!(kind, Kind::Firewall | Kind::FullCone | Kind::AddressRestricted | Kind::PortRestricted | Kind::Symmetric);
    let router = if kind == Kind::Firewall { "firewall" } else { "router" };
    match (found.replied.proven, found.replied.expired) {
        _ if !behind => {}
        (proven, Some(expired)) => {
            let still = proven.map(|proven| format!(", and not yet after {}", seconds(proven))).unwrap_or_default();
            let (expired, pause) = (seconds(expired), seconds(keep_alive));
            means.push(format!("Your {router} forgets a connection that is silent for {expired}{still}: each is used every {pause}."));
        }
        (Some(proven), None) => {
            means.push(format!("Your {router} remembers a silent connection for {} or more: each is used every {}.", seconds(proven), seconds(keep_alive)));
        }
        (None, None) => means.push(format!(
            "How long your {router} remembers a silent connection is found out while the node runs, over some minutes: until then each is used every {}.",
            seconds(keep_alive)
        )),
    }
    let liars = found.reporters.len() - found.agreed();
    if liars > 0 && matches!(found.mapping, Some(Mapping::None | Mapping::EndpointIndependent)) {
        means.push(format!("{liars} of {} peers say something else than the others, and are not believed.", found.reporters.len()));
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_has_words_for_people() {
        let mappings = [None, Some(Mapping::None), Some(Mapping::EndpointIndependent), Some(Mapping::AddressAndPortDependent)];
        let filterings =
            [None, Some(Filtering::EndpointIndependent), Some(Filtering::AddressDependent), Some(Filtering::AddressAndPortDependent)];
        let mut told = std::collections::BTreeSet::new();
        for mapping in mappings {
            for filtering in filterings {
                let found = Behaviour { mapping, filtering, ..Behaviour::default() };
                let words = means(&found, Duration::from_secs(25));
                assert!(words.iter().all(|sentence| sentence.ends_with('.')), "{words:?}");
                told.insert(words[0].clone());
            }
        }
        assert!(told.len() >= 6, "{told:?}");
    }

    #[test]
    fn a_router_that_forgets_after_30_s_is_said_to_do_so() {
        let mut found = Behaviour {
            mapping: Some(Mapping::EndpointIndependent),
            filtering: Some(Filtering::AddressAndPortDependent),
            ..Behaviour::default()
        };
        found.replied.expired = Some(Duration::from_secs(30));
        let words = means(&found, Duration::from_secs(20));
        assert!(
            words.iter().any(|sentence| sentence == "Your router forgets a connection that is silent for 30 s: each is used every 20 s."),
            "{words:?}"
        );
    }
}
