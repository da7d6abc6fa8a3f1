//! Doubly linked lists through the slots of the store: O(1) in everything, no allocation.

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// The ends of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) head: u32,
    tail: u32,
}

/// The neighbours of a slot in a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    next: u32,
    previous: u32,
}

/// Which list: a slot is in one of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By when it was last offered.
    Turn,
    /// Packets of strangers by arrival, among the newest or among those of the same rank.
    Rank,
    /// By arrival, among the packets of the same origin or, if they are wanted, of the same topic.
    Giver,
    /// Those that expire in the same minute.
    Expiry,
}

/// The links of a slot, one for each [`Kind`].
pub(crate) type Links = [Link; 4];

impl Link {
    pub(crate) const UNLINKED: Self = Self { next: NONE, previous: NONE };
}

/// What has links.
pub(crate) trait Linked {
    fn links(&mut self) -> &mut Links;
}

impl List {
    pub(crate) const EMPTY: Self = Self { head: NONE, tail: NONE };

    pub(crate) fn push<T: Linked>(&mut self, slots: &mut [T], kind: Kind, slot: u32) {
        slots[slot as usize].links()[kind as usize] = Link { next: NONE, previous: self.tail };
        match self.tail {
            NONE => self.head = slot,
            tail => slots[tail as usize].links()[kind as usize].next = slot,
        }
        self.tail = slot;
    }

    /// Puts the slot `to` in the place of the slot `from`, whose links it has.
    pub(crate) fn replace<T: Linked>(&mut self, slots: &mut [T], kind: Kind, from: u32, to: u32) {
        let Link { next, previous } = slots[to as usize].links()[kind as usize];
        match previous {
            NONE => self.head = to,
            previous => slots[previous as usize].links()[kind as usize].next = to,
        }
        match next {
            NONE => self.tail = to,
            next => slots[next as usize].links()[kind as usize].previous = to,
        }
        slots[from as usize].links()[kind as usize] = Link::UNLINKED;
    }

    pub(crate) fn unlink<T: Linked>(&mut self, slots: &mut [T], kind: Kind, slot: u32) {
        let Link { next, previous } = core::mem::replace(&mut slots[slot as usize].links()[kind as usize], Link::UNLINKED);
        match previous {
            NONE => self.head = next,
            previous => slots[previous as usize].links()[kind as usize].next = next,
        }
        match next {
            NONE => self.tail = previous,
            next => slots[next as usize].links()[kind as usize].previous = previous,
        }
    }
}
