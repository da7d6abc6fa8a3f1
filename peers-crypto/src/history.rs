//! What counts of a user's or group's statements, and who is a member by them: a function of the set alone.
//!
//! The rules are those of PROTOCOL.md, "What counts".

use core::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use peers_wire::{PeerId, Timestamp};

use crate::group::{Fork, GroupError, Guardians, Member, State};
use crate::statement::{Action, Endorsement, GroupId, Role, Statement, StatementId};

/// What a key may do; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    Reader,
    Writer,
    Owner,
    /// An owner by the word of guardians.
    Recovered,
    /// A recovery key.
    Recovery,
}

/// The reason why a key may do something: a statement that counts.
#[derive(Debug, Clone)]
struct Grant {
    place: usize,
    standing: Standing,
    holder: GroupId,
    /// The line of admissions from the founder, as places: the lesser is senior.
    line: Vec<usize>,
}

/// Who was admitted and removed by the statements that count.
#[derive(Debug, Default)]
struct Rolls {
    granted: BTreeMap<PeerId, Vec<Grant>>,
    /// Of devices, and of recovery keys.
    removed: BTreeMap<(bool, PeerId), Vec<usize>>,
    guardians: Vec<usize>,
}

/// Statements in order, each with what it descends from.
pub(crate) struct History<'a> {
    order: Vec<&'a Statement>,
    /// For each, the places of its ancestors, as a set of bits.
    ancestors: Vec<Vec<u64>>,
    places: BTreeMap<StatementId, usize>,
}

impl<'a> History<'a> {
    /// Every parent must be there.
    pub(crate) fn new(statements: &'a BTreeMap<StatementId, Statement>) -> Self {
        let mut children: BTreeMap<StatementId, Vec<&Statement>> = BTreeMap::new();
        let mut waiting: BTreeMap<StatementId, usize> = BTreeMap::new();
        let mut ready = BTreeSet::new();
        for statement in statements.values() {
            waiting.insert(statement.id(), statement.parents().len());
            statement.parents().iter().for_each(|parent| children.entry(*parent).or_default().push(statement));
            if statement.parents().is_empty() {
                ready.insert((statement.time(), statement.id()));
            }
        }
        let words = statements.len().div_ceil(64);
        let mut this = Self { order: Vec::new(), ancestors: Vec::new(), places: BTreeMap::new() };
        while let Some((_, id)) = ready.pop_first() {
            let statement = &statements[&id];
            let mut ancestors = vec![0; words];
            for parent in statement.parents() {
                let place = this.places[parent];
                ancestors.iter_mut().zip(&this.ancestors[place]).for_each(|(word, theirs)| *word |= theirs);
                ancestors[place / 64] |= 1 << (place % 64);
            }
            this.places.insert(id, this.order.len());
            this.order.push(statement);
            this.ancestors.push(ancestors);
            for child in children.remove(&id).unwrap_or_default() {
                let left = waiting.entry(child.id()).or_default();
                *left -= 1;
                if *left == 0 {
                    ready.insert((child.time(), child.id()));
                }
            }
        }
        this
    }

    /// The statements in order.
    pub(crate) fn order(&self) -> &[&'a Statement] {
        &self.order
    }

    /// Whether the later of two statements was made in knowledge of the earlier.
    pub(crate) fn knew(&self, later: StatementId, earlier: StatementId) -> bool {
        match (self.places.get(&later), self.places.get(&earlier)) {
            (Some(later), Some(earlier)) => self.descends(*later, *earlier),
            _ => false,
        }
    }

    /// The statements that `id` was made in knowledge of, and itself.
    pub(crate) fn view(&self, id: StatementId) -> BTreeMap<StatementId, Statement> {
        let Some(&at) = self.places.get(&id) else { return BTreeMap::new() };
        let seen = |place: &usize| *place == at || self.descends(at, *place);
        (0..self.order.len()).filter(seen).map(|place| (self.order[place].id(), self.order[place].clone())).collect()
    }

    fn descends(&self, place: usize, from: usize) -> bool {
        self.ancestors[place][from / 64] & 1 << (from % 64) != 0
    }

    /// Refuses what a stranger says, or a member to whom nobody ever gave the role that it takes: the author must be admitted in the statement's past, whether or not that
    /// counts, or endorsed by guardians named there.
    pub(crate) fn check_authors(&self) -> Result<(), GroupError> {
        let mut admitted: BTreeMap<PeerId, Vec<(usize, Standing, GroupId)>> = BTreeMap::new();
        for (place, statement) in self.order.iter().enumerate() {
            let author = statement.author();
            let grants: Vec<_> = admitted.get(&author).into_iter().flatten().filter(|(from, ..)| self.descends(place, *from)).collect();
            let (known, able) = match statement.action() {
                Action::Create { .. } => (true, true),
                Action::Recover { guardians, endorsements, .. } => {
                    let chosen = self.places.get(guardians).filter(|at| self.descends(place, **at));
                    (chosen.is_some_and(|at| endorsed(self.order[*at].action(), endorsements)), true)
                }
                action => (!grants.is_empty(), grants.iter().any(|(_, standing, holder)| able(action, *standing, *holder))),
            };
            if !known {
                return Err(GroupError::NotAMember(author));
            }
            if !able {
                return Err(GroupError::NotAllowed(author));
            }
            if let Some((key, (standing, holder))) = admits(statement) {
                admitted.entry(key).or_default().push((place, standing, holder));
            }
        }
        Ok(())
    }

    /// Which statements count, once every removal that counts has taken effect.
    fn resolve(&self) -> Vec<bool> {
        let mut void = vec![false; self.order.len()];
        let mut effective: BTreeSet<usize> = BTreeSet::new();
        loop {
            let (counts, by) = self.counting(&void, &effective);
            let strengths = by.iter().enumerate().filter_map(|(place, strength)| Some((place, strength.as_ref()?)));
            let mut removals: Vec<_> =
                strengths.filter(|(place, strength)| counts[*place] && !effective.contains(place) && self.ends(*place, strength)).collect();
            removals.sort_by_key(|(place, strength)| (Reverse(strength.standing), &strength.line, *place));
            // One that undoes nothing leaves all others as strong as they are.
            let undoes = removals.into_iter().any(|(place, strength)| {
                effective.insert(place);
                let anchors = self.anchors(&counts, &by, strength);
                let undone: Vec<_> = (0..self.order.len()).filter(|at| !void[*at] && self.undoes(place, strength, &anchors, *at)).collect();
                undone.iter().for_each(|at| void[*at] = true);
                !undone.is_empty()
            });
            if !undoes {
                return counts;
            }
        }
    }

    /// Whether the statement at `place` undoes what others said: a removal, or another choice of guardians in the place of those before.
    fn ends(&self, place: usize, strength: &Grant) -> bool {
        let guardians = matches!(self.order[place].action(), Action::SetGuardians { .. }) && strength.standing >= Standing::Recovered;
        guardians || removes(self.order[place]).is_some()
    }

    /// The additions of recovery keys and choices of guardians that a removal of that strength leaves, with all that they rest on: no device undoes those but a
    /// senior of who made them.
    fn anchors(&self, counts: &[bool], by: &[Option<Grant>], strength: &Grant) -> Vec<usize> {
        if strength.standing >= Standing::Recovered {
            return Vec::new();
        }
        let stays = |place: &usize| {
            let anchor = matches!(self.order[*place].action(), Action::AddRecovery { .. } | Action::SetGuardians { .. });
            let weaker = |author: &Grant| author.standing >= Standing::Recovered || author.line <= strength.line;
            anchor && counts[*place] && by[*place].as_ref().is_some_and(weaker)
        };
        (0..self.order.len()).filter(stays).collect()
    }

    /// Whether the statement at `place`, made with that strength, undoes the one at `other`.
    fn undoes(&self, place: usize, strength: &Grant, anchors: &[usize], other: usize) -> bool {
        let (statement, theirs) = (self.order[place], self.order[other]);
        let within = |end: usize| end == other || self.descends(end, other);
        match (removes(statement), theirs.action()) {
            (Some((_, key, last)), _) => {
                let last = self.places.get(&last).copied();
                let kept = || last.is_some_and(within) || within(strength.place) || self.descends(other, place);
                theirs.author() == key && !theirs.parents().is_empty() && !kept() && !anchors.iter().any(|anchor| within(*anchor))
            }
            // Guardians that were replaced bring nobody back, whatever view it is stated in.
            (None, Action::Recover { guardians, .. }) => {
                let replaced = self.places.get(guardians).is_some_and(|old| self.descends(place, *old));
                replaced && !self.descends(place, other)
            }
            _ => false,
        }
    }

    /// Which statements count if those of `void` do not and those of `effective` do, and why their authors may make them.
    fn counting(&self, void: &[bool], effective: &BTreeSet<usize>) -> (Vec<bool>, Vec<Option<Grant>>) {
        let (mut counts, mut by) = (vec![false; self.order.len()], vec![None; self.order.len()]);
        let mut rolls = Rolls::default();
        for (place, statement) in self.order.iter().enumerate() {
            let author = self.grant_at(&rolls, statement.author(), place);
            // What has taken effect was stronger than whatever could undo it now.
            if !effective.contains(&place) && (void[place] || !self.may(&rolls, place, author.as_ref())) {
                continue;
            }
            counts[place] = true;
            if let Some((recovery, key, _)) = removes(statement) {
                rolls.removed.entry((recovery, key)).or_default().push(place);
            }
            if let Some((key, (standing, holder))) = admits(statement) {
                let line = author.iter().flat_map(|author| &author.line).copied().chain([place]).collect();
                rolls.granted.entry(key).or_default().push(Grant { place, standing, holder, line });
            }
            if matches!(statement.action(), Action::SetGuardians { .. }) {
                rolls.guardians.push(place);
            }
            by[place] = author;
        }
        (counts, by)
    }

    /// What `key` may do in the view of the statement at `place`.
    fn grant_at(&self, rolls: &Rolls, key: PeerId, place: usize) -> Option<Grant> {
        let seen = |at: usize| self.descends(place, at);
        self.standing(rolls, key, &seen)
    }

    /// What `key` may do by the grants and removals that are `seen`: of several grants those that no other saw, of these the least.
    fn standing(&self, rolls: &Rolls, key: PeerId, seen: &dyn Fn(usize) -> bool) -> Option<Grant> {
        let ended = |grant: &Grant| {
            let removed = rolls.removed.get(&(grant.standing == Standing::Recovery, key));
            removed.is_some_and(|all| all.iter().any(|at| seen(*at) && !self.descends(grant.place, *at)))
        };
        let mut alive: Vec<_> = rolls.granted.get(&key)?.iter().filter(|grant| seen(grant.place) && !ended(grant)).collect();
        // The least first: mostly it is among the newest, and there may be very many that no other saw.
        let places: Vec<_> = alive.iter().rev().map(|grant| grant.place).collect();
        alive.sort_by(|a, b| (a.standing, &a.line).cmp(&(b.standing, &b.line)));
        let newest = |grant: &&&Grant| !places.iter().any(|other| self.descends(*other, grant.place));
        alive.iter().find(newest).map(|grant| Grant::clone(grant))
    }

    /// Whether an author with that grant may make the statement at `place`.
    fn may(&self, rolls: &Rolls, place: usize, author: Option<&Grant>) -> bool {
        let statement = self.order[place];
        let standing = author.map(|grant| grant.standing);
        let owner = standing >= Some(Standing::Owner);
        // A device of the same holder that can do no more than the author.
        let lesser = |theirs: &Grant| Some(theirs.standing) <= standing && author.is_some_and(|mine| mine.holder == theirs.holder);
        let same = |holder: GroupId| author.is_some_and(|mine| mine.holder != GroupId::NONE && mine.holder == holder);
        match statement.action() {
            Action::Create { .. } => true,
            Action::Recover { guardians, .. } => {
                let newest = self.newest_guardians(rolls, &|at| self.descends(place, at)) == self.places.get(guardians).copied();
                // Endorsements are for a new device: one that was removed cannot use them again.
                let removed = rolls.removed.get(&(false, statement.author()));
                newest && !removed.is_some_and(|all| all.iter().any(|at| self.descends(place, *at)))
            }
            Action::Rename { .. } => owner,
            Action::Admit { device, role, holder, .. } => {
                let free = || self.grant_at(rolls, *device, place).is_none_or(|theirs| lesser(&theirs));
                owner || (same(*holder) && Some(Standing::from(*role)) <= standing && free())
            }
            Action::Remove { device, .. } => {
                let itself = standing.is_some() && *device == statement.author();
                // Of a device that the author has not heard of nobody can tell whose it is: it may be anybody's, admitted at the same time.
                owner || itself || self.grant_at(rolls, *device, place).is_some_and(|theirs| same(theirs.holder) && lesser(&theirs))
            }
            Action::RemoveRecovery { .. } => standing == Some(Standing::Recovery),
            Action::AddRecovery { .. } | Action::SetGuardians { .. } => {
                standing >= Some(Standing::Recovered) || (owner && !self.has_recovery(rolls, place))
            }
            Action::Rotate { .. } => standing >= Some(Standing::Writer),
        }
    }

    /// Whether the view of the statement at `place` has a recovery key or guardians.
    fn has_recovery(&self, rolls: &Rolls, place: usize) -> bool {
        let keys =
            rolls.granted.keys().any(|key| self.grant_at(rolls, *key, place).is_some_and(|grant| grant.standing == Standing::Recovery));
        let guardians = self.newest_guardians(rolls, &|at| self.descends(place, at));
        keys || guardians
            .is_some_and(|at| matches!(self.order[at].action(), Action::SetGuardians { guardians, .. } if !guardians.is_empty()))
    }

    /// The last choice of guardians among those `seen`.
    fn newest_guardians(&self, rolls: &Rolls, seen: &dyn Fn(usize) -> bool) -> Option<usize> {
        rolls.guardians.iter().copied().filter(|at| seen(*at)).max()
    }

    /// What the statements say in the end.
    pub(crate) fn state(&self) -> State {
        let mut state = State::default();
        let mut rolls = Rolls::default();
        let (mut kept_lines, counts) = (BTreeMap::new(), self.resolve());
        for place in (0..self.order.len()).filter(|place| counts[*place]) {
            let statement = self.order[place];
            state.counting.insert(statement.id());
            if let Some((recovery, key, _)) = removes(statement) {
                rolls.removed.entry((recovery, key)).or_default().push(place);
            }
            if let Some((key, (standing, holder))) = admits(statement) {
                let above: &Vec<usize> = kept_lines.entry(statement.author()).or_default();
                let line: Vec<_> = above.iter().copied().chain([place]).collect();
                kept_lines.entry(key).or_insert_with(|| line.clone());
                rolls.granted.entry(key).or_default().push(Grant { place, standing, holder, line });
            }
            match statement.action() {
                Action::Create { kind, name, .. } => (state.kind, state.name) = (Some(*kind), name.clone()),
                Action::Rename { name } => state.name.clone_from(name),
                Action::SetGuardians { .. } => rolls.guardians.push(place),
                // Of two concurrent removals the stricter holds.
                Action::Remove { device, sequence, .. } => {
                    state.removed.entry(*device).and_modify(|known| *known = (*known).min(*sequence)).or_insert(*sequence);
                }
                _ => {}
            }
        }
        for key in rolls.granted.keys() {
            let Some(grant) = self.standing(&rolls, *key, &|_| true) else { continue };
            let (admission, name) = (self.order[grant.place], names(self.order[grant.place]));
            if grant.standing == Standing::Recovery {
                state.recovery.insert(*key, admission.time());
                continue;
            }
            state.removed.remove(key);
            let role = match grant.standing {
                Standing::Reader => Role::Reader,
                Standing::Writer => Role::Writer,
                _ => Role::Owner,
            };
            let since = rolls.granted[key].iter().map(|grant| self.order[grant.place].time()).min().unwrap_or(Timestamp(0));
            let by = admission.author();
            state.members.insert(*key, Member { id: *key, name: name.to_owned(), role, holder: grant.holder, admitted: since, by });
        }
        state.guardians = self.newest_guardians(&rolls, &|_| true).and_then(|at| match self.order[at].action() {
            Action::SetGuardians { threshold, guardians } if !guardians.is_empty() => {
                Some(Guardians { statement: self.order[at].id(), threshold: *threshold, keys: guardians.clone() })
            }
            _ => None,
        });
        state.forks = self.forks();
        state
    }

    /// Pairs of statements of one key, neither of which was made in knowledge of the other.
    fn forks(&self) -> Vec<Fork> {
        let mut last: BTreeMap<PeerId, usize> = BTreeMap::new();
        let mut forks = Vec::new();
        for (place, statement) in self.order.iter().enumerate() {
            if let Some(before) = last.insert(statement.author(), place)
                && !self.descends(place, before)
            {
                forks.push(Fork { key: statement.author(), statements: [self.order[before].id(), statement.id()] });
            }
        }
        forks
    }
}

impl From<Role> for Standing {
    fn from(role: Role) -> Self {
        match role {
            Role::Reader => Self::Reader,
            Role::Writer => Self::Writer,
            Role::Owner => Self::Owner,
        }
    }
}

/// Whether one of that standing can ever do that.
fn able(action: &Action, standing: Standing, of: GroupId) -> bool {
    match action {
        Action::Admit { role, holder, .. } => standing >= Standing::Owner || (standing >= Standing::from(*role) && of == *holder),
        Action::Rename { .. } | Action::AddRecovery { .. } | Action::SetGuardians { .. } => standing >= Standing::Owner,
        Action::RemoveRecovery { .. } => standing == Standing::Recovery,
        Action::Rotate { .. } => standing >= Standing::Writer,
        _ => true,
    }
}

/// The key that a statement admits, what it may do from then on, and whose it is.
pub(crate) fn admits(statement: &Statement) -> Option<(PeerId, (Standing, GroupId))> {
    match statement.action() {
        Action::Create { holder, .. } => Some((statement.author(), (Standing::Owner, *holder))),
        Action::Admit { device, role, holder, .. } => Some((*device, (Standing::from(*role), *holder))),
        Action::AddRecovery { key, .. } => Some((*key, (Standing::Recovery, GroupId::NONE))),
        Action::Recover { .. } => Some((statement.author(), (Standing::Recovered, GroupId::NONE))),
        _ => None,
    }
}

/// Whether a recovery key is removed, which key, and the last of its statements that still counts.
pub(crate) fn removes(statement: &Statement) -> Option<(bool, PeerId, StatementId)> {
    match statement.action() {
        Action::Remove { device, last, .. } => Some((false, *device, *last)),
        Action::RemoveRecovery { key, last } => Some((true, *key, *last)),
        _ => None,
    }
}

pub(crate) fn names(statement: &Statement) -> &str {
    match statement.action() {
        Action::Create { device_name, .. } => device_name,
        Action::Admit { name, .. } | Action::Recover { name, .. } => name,
        _ => "",
    }
}

/// Whether enough of the guardians that `chosen` names have endorsed, each with a key of its own.
fn endorsed(chosen: &Action, endorsements: &[Endorsement]) -> bool {
    let Action::SetGuardians { threshold, guardians } = chosen else { return false };
    let good = |endorsement: &&Endorsement| {
        let keys = usize::from(endorsement.index).checked_sub(1).and_then(|at| guardians.get(at));
        keys.is_some_and(|keys| keys.contains(&endorsement.key))
    };
    endorsements.iter().filter(good).count() >= usize::from(*threshold)
}
