//! Every counter by name, for people and machines that watch a node.

use std::collections::BTreeMap;

use crate::stack::Stats;

/// Names the fields of one layer's counters.
macro_rules! named {
    ($layer:literal, $stats:expr, $($field:ident)*) => {
        [$((concat!($layer, ".", stringify!($field)), $stats.$field)),*]
    };
}

impl Stats {
    /// Every counter, by `layer.counter`.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let nat = named!("nat", self.nat, received received_bytes sent sent_bytes dropped_malformed dropped_oversized dropped_unknown dropped_forged dropped_replayed dropped_limited dropped_early dropped_relayed dropped_beacons unsent relayed relayed_bytes dials sessions answered challenged introduced refused probes checks moves beacons_sent beacons_answered);
        let cache = named!("cache", self.cache, messages strangers malformed packets duplicates untimely stale forged throttled overflowed orphaned pushed pulled served repeated failed receipts unfounded dropped held used neighbours);
        let node = named!("node", self, refused_messages refused_topic_messages late_links overflowed);
        nat.into_iter().chain(cache).chain(node).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
