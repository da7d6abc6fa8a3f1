//! The signals that end a process.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGINT or SIGTERM; for ever if they cannot be watched.
pub(crate) async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return core::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
