//! The addresses at which other peers see us.

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};

use peers_wire::PeerId;

use crate::address;

/// Peers whose latest report is kept.
const MAX_REPORTERS: usize = 32;

/// What peers report; nobody's report counts twice.
#[derive(Debug, Default)]
pub(crate) struct Reflexive {
    reports: BTreeMap<PeerId, SocketAddr>,
    order: VecDeque<PeerId>,
}

impl Reflexive {
    /// `reporter` sees us at `seen`; returns whether nobody else said so before.
    pub(crate) fn report(&mut self, reporter: PeerId, seen: SocketAddr) -> bool {
        if address::scope(seen).is_none() || self.reports.get(&reporter) == Some(&seen) {
            return false;
        }
        let new = !self.reports.values().any(|known| *known == seen);
        if self.reports.insert(reporter, seen).is_none() {
            if self.order.len() == MAX_REPORTERS
                && let Some(oldest) = self.order.pop_front()
            {
                self.reports.remove(&oldest);
            }
            self.order.push_back(reporter);
        }
        new
    }

    /// Whether `reporter` saw us elsewhere before.
    pub(crate) fn is_moved(&self, reporter: PeerId, seen: SocketAddr) -> bool {
        self.reports.get(&reporter).is_some_and(|before| *before != seen)
    }

    /// The latest report of each.
    pub(crate) fn reports(&self) -> impl Iterator<Item = (PeerId, SocketAddr)> {
        self.reports.iter().map(|(by, seen)| (*by, *seen))
    }

    /// The reported addresses, those with most reporters first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        self.counted().into_iter().map(|(address, _)| address)
    }

    /// The addresses that two peers or more agree on: the NAT maps to them whatever the destination, so that others may reach us there.
    pub(crate) fn agreed(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        self.counted().into_iter().filter(|(_, count)| *count > 1).map(|(address, _)| address)
    }

    /// The reported addresses whose host half of the reporters or more agree on, by family: one liar among several does not move us behind another NAT.
    pub(crate) fn mostly(&self) -> Vec<SocketAddr> {
        let of = |matches: &dyn Fn(&SocketAddr) -> bool| self.reports.values().filter(|seen| matches(seen)).count();
        let most = |address: &SocketAddr| 2 * of(&|seen| seen.ip() == address.ip()) >= of(&|seen| seen.is_ipv4() == address.is_ipv4());
        self.addresses().filter(most).collect()
    }

    fn counted(&self) -> Vec<(SocketAddr, usize)> {
        let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        for seen in self.reports.values() {
            *counts.entry(*seen).or_default() += 1;
        }
        let mut addresses: Vec<_> = counts.into_iter().collect();
        addresses.sort_by_key(|(address, count)| (core::cmp::Reverse(*count), *address));
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reporter_counts_once_and_the_most_agreed_address_comes_first() {
        let (a, b) = ("1.2.3.4:5".parse().unwrap(), "1.2.3.4:6".parse().unwrap());
        let mut reflexive = Reflexive::default();
        assert!(reflexive.report(PeerId([1; 32]), a));
        assert!(!reflexive.report(PeerId([1; 32]), a));
        assert!(reflexive.report(PeerId([1; 32]), b));
        assert!(reflexive.report(PeerId([2; 32]), a));
        assert!(!reflexive.report(PeerId([3; 32]), b));
        assert_eq!(reflexive.addresses().collect::<Vec<_>>(), [b, a]);
        assert_eq!(reflexive.agreed().collect::<Vec<_>>(), [b]);
    }

    #[test]
    fn reports_are_bounded_and_impossible_addresses_ignored() {
        let mut reflexive = Reflexive::default();
        for n in 0..100 {
            reflexive.report(PeerId([n; 32]), SocketAddr::from(([1, 2, 3, 4], 1 + u16::from(n))));
        }
        assert_eq!(reflexive.addresses().count(), MAX_REPORTERS);
        assert!(!reflexive.report(PeerId([200; 32]), "0.0.0.0:1".parse().unwrap()));
    }
}
