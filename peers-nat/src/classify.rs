//! How our own NAT behaves: the terms, and the verdict on what peers have reported.
//!
//! Nobody is trusted alone. What a reporter says is one vote; a datagram that arrives from where we never sent to is proof, as only a NAT that lets it in delivers it.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use peers_wire::PeerId;

/// Which of our datagrams a NAT sends from one and the same public address and port.
///
/// Source: RFC 4787, section 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mapping {
    /// There is no NAT: others see the address that we have.
    None,
    /// All that one socket sends.
    EndpointIndependent,
    /// What one socket sends to one address.
    AddressDependent,
    /// What one socket sends to one address and port.
    AddressAndPortDependent,
}

/// Whose datagrams a NAT or firewall lets in to a socket of ours.
///
/// Source: RFC 4787, section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filtering {
    /// Anybody's, once the socket has sent something.
    EndpointIndependent,
    /// Those from addresses that the socket has sent to.
    AddressDependent,
    /// Those from addresses and ports that the socket has sent to.
    AddressAndPortDependent,
}

/// How a NAT chooses the public port of a mapping.
///
/// Source: RFC 4787, section 4.2; RFC 5128, section 3.4 for ports that can be predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// The port of our socket.
    Preserved,
    /// A fixed step after the one before, up to the other flows of the same NAT.
    Sequential {
        /// Ports from one mapping to the next, -[`MAX_STEP`] to [`MAX_STEP`], not 0.
        step: i16,
    },
    /// Any of a block of at most [`MAX_BLOCK`] ports, of which these were seen.
    Block {
        /// The lowest port seen.
        low: u16,
        /// The highest port seen.
        high: u16,
    },
    /// Any port.
    Random,
}

/// How long a NAT or firewall remembers a silent flow, as far as was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetime {
    /// The longest silence after which it was still there.
    pub proven: Option<Duration>,
    /// The shortest silence after which it was gone.
    pub expired: Option<Duration>,
}

/// What is between us and the internet, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not known yet.
    Unknown,
    /// Nothing that we send by UDP is answered by anybody.
    Blocked,
    /// Nothing: anyone reaches us.
    Open,
    /// No NAT, but something that lets in answers only.
    Firewall,
    /// A NAT with endpoint-independent mapping and filtering.
    FullCone,
    /// A NAT with endpoint-independent mapping and address-dependent filtering.
    AddressRestricted,
    /// A NAT with endpoint-independent mapping and address-and-port-dependent filtering.
    PortRestricted,
    /// A NAT whose mapping depends on the destination.
    Symmetric,
}

/// A peer that reported how it sees us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reporter {
    /// Who.
    pub peer: PeerId,
    /// Where it saw one of our sockets.
    pub seen: SocketAddr,
    /// Whether what it said fits the verdict.
    pub agrees: bool,
}

/// How our own NAT behaves, as far as it is known: see [`Agent::behaviour`](crate::Agent::behaviour).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// Several public addresses were asked, and nothing ever came from any.
    pub blocked: bool,
    /// Which of our datagrams have the same public address.
    pub mapping: Option<Mapping>,
    /// Whose datagrams are let in.
    pub filtering: Option<Filtering>,
    /// How public ports are chosen; none where there is no NAT.
    pub allocation: Option<Allocation>,
    /// Whether two hosts behind the NAT reach each other by its public address; none where there is no NAT.
    pub hairpinning: Option<bool>,
    /// The public address that most see.
    pub external: Option<IpAddr>,
    /// How long a flow is remembered that was answered.
    pub replied: Lifetime,
    /// How long a flow is remembered that was never answered.
    pub unreplied: Lifetime,
    /// Who reported, at most [`MAX_REPORTERS`].
    pub reporters: Vec<Reporter>,
}

impl Behaviour {
    /// The verdict in one word.
    pub const fn kind(&self) -> Kind {
        match (self.mapping, self.filtering) {
            _ if self.blocked => Kind::Blocked,
            (Some(Mapping::AddressDependent | Mapping::AddressAndPortDependent), _) => Kind::Symmetric,
            (Some(Mapping::None), Some(Filtering::EndpointIndependent)) => Kind::Open,
            (Some(Mapping::None), Some(_)) => Kind::Firewall,
            (Some(Mapping::EndpointIndependent), Some(Filtering::EndpointIndependent)) => Kind::FullCone,
            (Some(Mapping::EndpointIndependent), Some(Filtering::AddressDependent)) => Kind::AddressRestricted,
            (Some(Mapping::EndpointIndependent), Some(Filtering::AddressAndPortDependent)) => Kind::PortRestricted,
            _ => Kind::Unknown,
        }
    }

    /// How many of the reporters said what fits the verdict.
    pub fn agreed(&self) -> usize {
        self.reporters.iter().filter(|reporter| reporter.agrees).count()
    }
}

/// Most peers that report at once.
pub const MAX_REPORTERS: usize = 3;
/// Longest step between two ports that still counts as sequential.
pub const MAX_STEP: i16 = 8;
/// Ports that lie within so many are of one block.
pub const MAX_BLOCK: u16 = 2048;
/// Ports that it takes to tell a block from chance.
const MIN_PORTS: usize = 6;
/// Reporters that it takes where not all can have seen the same: tests that have to end in silence for filtering to count as strict, and ports that have to be preserved.
const MIN_WITNESSES: usize = 2;

/// Where a reporter saw a socket that had sent nothing before the reports began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) by: PeerId,
    /// Which of the fresh sockets, from 0.
    pub(crate) socket: usize,
    /// The how manieth flow of all fresh sockets it was, by the order in which they began.
    pub(crate) order: usize,
    /// The reporter was spoken to at a second port of its.
    pub(crate) second: bool,
    pub(crate) seen: SocketAddr,
}

/// What came to a socket that has sent to one address of one reporter only, when that had other ports and addresses probe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trial {
    /// Who was asked.
    pub(crate) by: PeerId,
    /// It says that it had the socket probed from a second port of its, and by another peer.
    pub(crate) asked: (bool, bool),
    /// Probes that came from another port of the same address, and from another address.
    pub(crate) came: (bool, bool),
}

/// All that is known of our NAT: what reporters say, and what came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    /// The addresses of our main socket.
    pub(crate) local: Vec<SocketAddr>,
    /// Where peers see our main socket.
    pub(crate) main: Vec<(PeerId, SocketAddr)>,
    pub(crate) reports: Vec<Report>,
    pub(crate) trials: Vec<Trial>,
    /// A probe to our own public address came back to us; none if that was not tried.
    pub(crate) hairpin: Option<bool>,
}

impl Evidence {
    /// What follows from the evidence, in whatever order it came.
    pub(crate) fn verdict(&self) -> Behaviour {
        let ids: BTreeSet<PeerId> = self.reports.iter().map(|report| report.by).collect();
        let count = ids.len();
        let (mapping, agree) = self.mapping(&ids);
        let filtering = self.filtering();
        let nat = mapping.is_some_and(|mapping| mapping != Mapping::None);
        let seen = |id: PeerId| self.reports.iter().filter(|report| report.by == id).min_by_key(|report| report.order);
        let reporters = ids.iter().filter_map(|id| Some(Reporter { peer: *id, seen: seen(*id)?.seen, agrees: agree.contains(id) }));
        Behaviour {
            mapping,
            filtering,
            allocation: if nat {
                self.allocation(if mapping == Some(Mapping::EndpointIndependent) { &agree } else { &ids }, mapping)
            } else {
                None
            },
            hairpinning: self.hairpin.filter(|_| nat),
            external: majority(self.addresses(), count),
            reporters: reporters.take(MAX_REPORTERS).collect(),
            ..Behaviour::default()
        }
    }

    /// The address that each reporter saw first.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let mut first: BTreeMap<PeerId, (usize, IpAddr)> = BTreeMap::new();
        for report in &self.reports {
            let entry = first.entry(report.by).or_insert_with(|| (report.order, report.seen.ip()));
            if report.order < entry.0 {
                *entry = (report.order, report.seen.ip());
            }
        }
        first.into_values().map(|(_, ip)| ip)
    }

    /// The mapping, and the reporters whose word fits it.
    fn mapping(&self, ids: &BTreeSet<PeerId>) -> (Option<Mapping>, BTreeSet<PeerId>) {
        let count = ids.len();
        if count < 2 {
            return (None, BTreeSet::new());
        }
        let first = |id: PeerId| self.reports.iter().filter(move |report| report.by == id && !report.second);
        let is_local = |id: &&PeerId| first(**id).all(|report| self.local.iter().any(|local| local.ip() == report.seen.ip()));
        let local: BTreeSet<PeerId> = ids.iter().filter(is_local).copied().collect();
        if 2 * local.len() > count {
            return (Some(Mapping::None), local);
        }
        // Two agree if they saw each socket that both saw at one address.
        let agrees = |a: &PeerId, b: &PeerId| {
            let pairs = || first(*a).flat_map(|x| first(*b).filter(|y| y.socket == x.socket).map(|y| x.seen == y.seen));
            pairs().count() > 0 && pairs().all(|same| same)
        };
        let classes = ids.iter().map(|a| ids.iter().filter(|b| agrees(a, b)).copied().collect::<BTreeSet<PeerId>>());
        let class = classes.max_by_key(BTreeSet::len).unwrap_or_default();
        // Where a reporter was spoken to at two ports, it alone tells whether the port matters. By chance two ports can be the same once.
        let ports = |id: &PeerId| {
            let second = self.reports.iter().filter(|report| report.by == *id && report.second);
            let same = second
                .filter_map(|second| first(*id).find(|report| report.socket == second.socket).map(|report| report.seen == second.seen));
            same.reduce(|all, same| all && same)
        };
        let votes: BTreeMap<PeerId, bool> = ids.iter().filter_map(|id| Some((*id, ports(id)?))).collect();
        let (same, differ) = (votes.values().filter(|same| **same).count(), votes.values().filter(|same| !**same).count());
        // One who lies can pretend to see what another saw, or something else; only most of all together can say that the port matters.
        if class.len() == count || (2 * class.len() > count && 2 * differ <= count) {
            return (Some(Mapping::EndpointIndependent), class);
        }
        // Two that contradict each other leave it open.
        let external = majority(self.addresses(), count);
        if external.is_none() || (2 * class.len() == count && same > 0 && same == differ) {
            return (None, BTreeSet::new());
        }
        let mapping = if same > differ { Mapping::AddressDependent } else { Mapping::AddressAndPortDependent };
        let fits = |id: &&PeerId| {
            let vote = votes.get(*id).is_none_or(|same| *same == (mapping == Mapping::AddressDependent));
            vote && first(**id).all(|report| external.is_none_or(|ip| ip == report.seen.ip()))
        };
        (Some(mapping), ids.iter().filter(fits).copied().collect())
    }

    /// What arrived is proof; silence counts if it met several.
    fn filtering(&self) -> Option<Filtering> {
        let other_address = self.trials.iter().any(|trial| trial.came.1);
        let other_port = self.trials.iter().any(|trial| trial.came.0);
        let silent = |asked: fn(&Trial) -> bool| self.trials.iter().filter(|trial| asked(trial)).count() >= MIN_WITNESSES;
        if other_address {
            Some(Filtering::EndpointIndependent)
        } else if other_port {
            silent(|trial| trial.asked.1).then_some(Filtering::AddressDependent)
        } else {
            silent(|trial| trial.asked.0).then_some(Filtering::AddressAndPortDependent)
        }
    }

    /// By the reports of `ids`.
    fn allocation(&self, ids: &BTreeSet<PeerId>, mapping: Option<Mapping>) -> Option<Allocation> {
        let independent = mapping == Some(Mapping::EndpointIndependent);
        let most = |count: usize, of: usize| 2 * count > of;
        // A NAT that preserves ports may have had to give some of the main socket's flows another; one that does not preserves none by chance. One alone may say so falsely.
        let preserved = self.main.iter().filter(|(_, seen)| self.local.iter().any(|local| local.port() == seen.port())).count();
        if preserved >= MIN_WITNESSES {
            return Some(Allocation::Preserved);
        }
        // One socket is one mapping, or one for each destination.
        let ports = |id: &PeerId| -> Vec<(usize, u16)> {
            let mut ports: Vec<(usize, u16)> = self
                .reports
                .iter()
                .filter(|report| report.by == *id && !report.second)
                .map(|report| (if independent { report.socket } else { report.order }, report.seen.port()))
                .collect();
            ports.sort_unstable();
            ports.dedup_by_key(|(place, _)| *place);
            ports
        };
        let by_reporter: Vec<Vec<(usize, u16)>> = ids.iter().map(ports).filter(|ports| ports.len() > 1).collect();
        let mut steps: Vec<i16> = by_reporter.iter().filter_map(|ports| step(ports)).collect();
        steps.sort_unstable();
        if most(steps.len(), ids.len()) {
            return Some(Allocation::Sequential { step: steps[steps.len() / 2] });
        }
        if !most(by_reporter.len(), ids.len()) {
            return None;
        }
        // A block is the narrowest that all agree on, or all but one.
        let without = (0..=by_reporter.len()).filter(|left_out| most(by_reporter.len() - usize::from(*left_out > 0), ids.len()));
        let pools = without.map(|left_out| {
            let pool = by_reporter.iter().enumerate().filter(|(i, _)| i + 1 != left_out).flat_map(|(_, ports)| ports);
            pool.map(|(_, port)| *port).collect::<BTreeSet<u16>>()
        });
        let pools = pools.filter(|pool| pool.len() >= MIN_PORTS);
        let blocks = pools.filter_map(|pool| Some((*pool.first()?, *pool.last()?)));
        let block = blocks.min_by_key(|(low, high)| high - low).filter(|(low, high)| high - low < MAX_BLOCK);
        Some(block.map_or(Allocation::Random, |(low, high)| Allocation::Block { low, high }))
    }
}

/// The step from mapping to mapping, if these ports, by the number of their mapping, have one. Flows of others in between make it look longer now and then: the shortest counts.
fn step(ports: &[(usize, u16)]) -> Option<i16> {
    let steps = ports.windows(2).map(|pair| {
        let mappings = i32::try_from(pair[1].0 - pair[0].0).ok().filter(|mappings| *mappings > 0)?;
        let distance = i32::from(pair[1].1.wrapping_sub(pair[0].1).cast_signed());
        (distance != 0 && distance.abs() >= mappings && distance.abs() <= i32::from(MAX_STEP) * mappings).then_some(distance / mappings)
    });
    let steps = steps.collect::<Option<Vec<i32>>>()?;
    let one_way = steps.iter().all(|step| step.signum() == steps[0].signum());
    let shortest = steps.into_iter().min_by_key(|step| step.abs()).filter(|_| one_way)?;
    i16::try_from(shortest).ok()
}

/// What more than half of `count` say.
fn majority<T: Ord + Copy>(votes: impl Iterator<Item = T>, count: usize) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for vote in votes {
        *counts.entry(vote).or_default() += 1;
    }
    counts.into_iter().find(|(_, votes)| 2 * votes > count).map(|(value, _)| value)
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
