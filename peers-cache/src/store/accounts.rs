//! Who brought what: one account for each origin, so that none of them takes more than its share.
//!
//! An origin is what an attacker cannot have many of at will: the address prefix of a neighbour or the relay it is reached by, as the caller names it, else the neighbour
//! itself. Several neighbours of one origin share its account.

use hashbrown::HashMap;

use crate::list::{Kind, Linked, List, NONE};

/// Origins that are told apart; what all beyond them bring is in one account.
pub(crate) const MAX_ORIGINS: usize = 1024;
/// What we brought ourselves or took from our disk; it has no share.
pub(super) const OURS: u16 = 0;
/// The account of all for whom there is none of their own.
const OTHERS: u16 = 1;
/// Bytes that an account is charged: itself, its place among the heaviest, its entry by origin.
pub(crate) const ORIGIN_COST: usize = 2 * size_of::<Account>() + 2 * 2 + 3 * 16 * 8 / 7;

#[derive(Debug)]
struct Account {
    /// Orders accounts that are equally heavy.
    origin: u64,
    list: List,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Accounts {
    accounts: Vec<Account>,
    by_origin: HashMap<u64, u16>,
    unused: Vec<u16>,
    /// A tournament: node 1 is the heaviest of all, node n the heavier of nodes 2n and 2n + 1, of which those beyond the end stand for the accounts themselves.
    heaviest: Vec<u16>,
    /// Accounts that hold something, ours apart.
    live: usize,
}

impl Accounts {
    /// The account of an origin (`None`: ours), made if there is none; O(1).
    pub(super) fn of(&mut self, origin: Option<u64>) -> u16 {
        if self.accounts.is_empty() {
            for origin in [0, u64::MAX] {
                self.accounts.push(Account { origin, list: List::EMPTY, bytes: 0 });
            }
            self.grow();
        }
        let Some(origin) = origin else { return OURS };
        if let Some(account) = self.by_origin.get(&origin) {
            return *account;
        }
        let account = if let Some(unused) = self.unused.pop() {
            self.accounts[usize::from(unused)].origin = origin;
            unused
        } else if self.accounts.len() < MAX_ORIGINS {
            self.accounts.push(Account { origin, list: List::EMPTY, bytes: 0 });
            self.grow();
            u16::try_from(self.accounts.len() - 1).unwrap_or(OTHERS)
        } else {
            return OTHERS;
        };
        self.by_origin.insert(origin, account);
        account
    }

    /// Puts a slot of `bytes` at the end of an account; O(log accounts).
    pub(super) fn add<T: Linked>(&mut self, slots: &mut [T], account: u16, at: u32, bytes: usize) {
        let entry = &mut self.accounts[usize::from(account)];
        entry.list.push(slots, Kind::Giver, at);
        self.live += usize::from(entry.bytes == 0 && account != OURS);
        entry.bytes += bytes;
        self.weigh(account);
    }

    /// Takes a slot out of an account, which is free for another origin once it is empty; O(log accounts).
    pub(super) fn take<T: Linked>(&mut self, slots: &mut [T], account: u16, at: u32, bytes: usize) {
        let entry = &mut self.accounts[usize::from(account)];
        entry.list.unlink(slots, Kind::Giver, at);
        entry.bytes -= bytes;
        self.live -= usize::from(entry.bytes == 0 && account != OURS);
        if entry.bytes == 0 && account > OTHERS {
            self.by_origin.remove(&entry.origin);
            self.unused.push(account);
        }
        self.weigh(account);
    }

    /// The list of an account, to put another slot in the place of one that moved.
    pub(super) fn list_mut(&mut self, account: u16) -> &mut List {
        &mut self.accounts[usize::from(account)].list
    }

    /// The heaviest account that is not ours: its bytes, and its oldest slot.
    pub(super) fn heaviest(&self) -> Option<(usize, u32)> {
        let account = &self.accounts[usize::from(*self.heaviest.get(1)?)];
        (account.bytes > 0 && account.list.head != NONE).then_some((account.bytes, account.list.head))
    }

    /// How many accounts, ours apart, hold something.
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    fn weigh(&mut self, account: u16) {
        let mut node = (self.heaviest.len() + usize::from(account)) / 2;
        while node > 0 {
            self.heaviest[node] = self.winner(node);
            node /= 2;
        }
    }

    /// Twice as many places when they are used up.
    fn grow(&mut self) {
        if self.accounts.len() > self.heaviest.len() {
            let places = self.accounts.len().next_power_of_two();
            self.heaviest = vec![OURS; places];
            (1..places).rev().for_each(|node| self.heaviest[node] = self.winner(node));
        }
    }

    fn winner(&self, node: usize) -> u16 {
        let places = self.heaviest.len();
        let contender = |node: usize| match node.checked_sub(places) {
            None => self.heaviest[node],
            Some(account) => u16::try_from(account).unwrap_or(OURS),
        };
        let weight = |account: u16| {
            let account = self.accounts.get(usize::from(account)).filter(|_| account != OURS);
            account.map(|account| (account.bytes, account.origin))
        };
        let (one, other) = (contender(2 * node), contender(2 * node + 1));
        if weight(one) >= weight(other) { one } else { other }
    }
}
