//! Which fragments to ask for: of messages that stall, less and less of those that do not get on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use peers_wire::{PacketId, Progress, Reassembly};

/// How long a message may stall before what it lacks is asked for; then twice as long each time that nothing came of it.
pub(crate) const REPAIR_AFTER: Duration = Duration::from_millis(500);
/// Fragments asked for at a time, of all messages.
const MAX_REQUESTS: usize = 64;
/// Of these, of messages of which nothing but the head ever came: such requests may be in vain, and each keeps several peers busy for seconds.
const MAX_PROBES: usize = 2;

/// When each unfinished message was last asked for; one entry for each that the [`Reassembly`] has.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    messages: BTreeMap<PacketId, Repair>,
}

#[derive(Debug, Clone, Copy)]
struct Repair {
    /// What it had when it was last asked for.
    received: u32,
    /// Times that it was asked for since something came.
    tries: u32,
    next: Instant,
}

impl Repairs {
    /// The packets to ask for now, those of messages that got on best first.
    pub(crate) fn due(&mut self, now: Instant, reassembly: &Reassembly) -> Vec<PacketId> {
        let unfinished: BTreeMap<PacketId, Progress> = reassembly.progress().map(|progress| (progress.head, progress)).collect();
        self.messages.retain(|head, _| unfinished.contains_key(head));
        let mut stalled = Vec::new();
        for (head, progress) in &unfinished {
            let repair = self.messages.entry(*head).or_insert(Repair { received: 0, tries: 0, next: now });
            if repair.received < progress.received {
                *repair = Repair { received: progress.received, tries: 0, next: now };
            }
            // One that still grows is on its way.
            if progress.last + REPAIR_AFTER <= now && repair.next <= now {
                stalled.push((progress.received == 0, repair.tries, *head));
            }
        }
        stalled.sort_unstable();
        let mut missing = Vec::new();
        let mut probes = 0;
        for (nothing, tries, head) in stalled {
            let room = if nothing { (MAX_PROBES - probes).min(MAX_REQUESTS - missing.len()) } else { MAX_REQUESTS - missing.len() };
            if room == 0 {
                break;
            }
            let asked = reassembly.missing(&head, room.min(MAX_REQUESTS >> tries.min(6)));
            probes += if nothing { asked.len() } else { 0 };
            missing.extend(asked);
            if let Some(repair) = self.messages.get_mut(&head) {
                repair.tries += 1;
                repair.next = now + REPAIR_AFTER * (1 << repair.tries.min(7));
            }
        }
        missing
    }
}
