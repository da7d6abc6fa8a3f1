//! The `peers` command on real networks that exist for these tests alone, and on disks that are full.
//!
//! Each test makes its network namespaces and disks, so nothing touches the machine's own interfaces. Where that is not allowed (it needs root, IPv6 and the command `ip`), it says so and passes.
#![expect(clippy::unwrap_used, reason = "a failed step of the harness fails its test")]

mod discovery;
mod full_disk;
mod host;
mod lan_only;
mod linking;
mod peer;
mod router;

use std::io::Write;
use std::time::{Duration, Instant};

/// Says something that is seen also when the test passes.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Tries until it holds, for at most half a minute, and gives how long that took.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begin = now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it never came true that {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    begin.elapsed()
}

#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn now() -> Instant {
    Instant::now()
}
