//! How a user of a [`Node`] comes back after all devices are lost: phrases and guardians.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use peers_crypto::{GroupId, GuardianPackage, MAX_GUARDIANS, RecoveryPhrase};
use peers_wire::{PeerId, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use crate::driver::{Driver, MAX_UNSTORED_MAIL};
use crate::mailbox::Kept;
use crate::membership::Ward;
use crate::node::{Closed, Node};
use crate::node_groups::MembershipError;
use crate::packages;
use crate::store::StoreError;
use crate::types::NodeEvent;

/// Why a user did not come back.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// It was tried and did not work.
    #[error(transparent)]
    Failed(#[from] crate::recovery::RestoreFailure),
    /// This device has a user with several devices, or another recovery is under way.
    #[error("{0}")]
    Refused(&'static str),
    /// The user is back until the node ends, and could not be stored on this device.
    #[error("the user could not be stored on this device: {0}")]
    State(StoreError),
    /// The node is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// How many guardians have answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Whose guardians they say they are: the user's id in text form, for the person to confirm. Empty until one has answered.
    pub user: String,
    /// Those whose word counts.
    pub have: usize,
    /// Those that it takes; 0 until one has answered.
    pub need: usize,
}

/// A user that came back on this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The user's id in text form.
    pub user: String,
    /// The user's name.
    pub name: String,
}

/// A recovery under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Recovering {
    progress: watch::Receiver<Progress>,
    outcome: oneshot::Receiver<Result<Recovered, RecoverError>>,
}

/// Who waits for a recovery.
pub(crate) struct RecoveryWatch {
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) outcome: oneshot::Sender<Result<Recovered, RecoverError>>,
}

impl Recovering {
    /// Waits until another guardian has answered; `None` once it has ended: [`Recovering::wait`] says how.
    pub async fn progress(&mut self) -> Option<Progress> {
        self.progress.changed().await.ok()?;
        Some(self.progress.borrow_and_update().clone())
    }

    /// Waits until the user is back and on disk, or it ends.
    ///
    /// # Errors
    /// [`RecoverError`].
    pub async fn wait(self) -> Result<Recovered, RecoverError> {
        self.outcome.await.unwrap_or(Err(RecoverError::Closed(Closed)))
    }
}

impl Node {
    /// Adds a phrase that can recover the user; `by`: an older one, needed where there is one.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add_recovery(&self, phrase: RecoveryPhrase, by: Option<RecoveryPhrase>) -> Result<(), MembershipError> {
        self.change(move |driver, now, wall| driver.stack.add_recovery(now, wall, &phrase, by.as_ref())).await
    }

    /// Makes the phrase of that key void, by the word of `by`: itself, or another one.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove_recovery(&self, key: PeerId, by: RecoveryPhrase) -> Result<(), MembershipError> {
        self.change(move |driver, now, wall| driver.stack.remove_recovery(now, wall, key, &by)).await
    }

    /// Begins to make this device one of the user whose phrase this is, from what the user's devices, guardians or other peers hold.
    ///
    /// # Errors
    /// [`RecoverError::Refused`] if this device has a user with several devices already, or another recovery is under way.
    pub async fn restore(&self, phrase: RecoveryPhrase) -> Result<Recovering, RecoverError> {
        let name = self.name().to_owned();
        self.recover(move |driver, now, wall| driver.stack.restore(now, wall, &phrase, &name)).await
    }

    /// Begins to make this device one of the user whose guardians vouch for it with [`Node::endorse`].
    ///
    /// - `user`: whom they are to bring back; else the one whom the first that answers names
    ///
    /// # Errors
    /// [`RecoverError::Refused`] if this device has a user with several devices already, or another recovery is under way.
    pub async fn ask_guardians(&self, user: GroupId) -> Result<Recovering, RecoverError> {
        let name = self.name().to_owned();
        self.recover(move |driver, _, _| driver.stack.ask_guardians(user, &name)).await
    }

    async fn recover(
        &self,
        begin: impl FnOnce(&mut Driver, Instant, Timestamp) -> Result<(), &'static str> + Send + 'static,
    ) -> Result<Recovering, RecoverError> {
        let ((progress, shown), (sender, outcome)) = (watch::channel(Progress::default()), oneshot::channel());
        let begun = self.call(move |driver, now, wall| {
            driver.end_abandoned_recovery(now, wall);
            if driver.recovering.is_some() {
                return Err("another recovery is under way: finish it, or end it");
            }
            begin(driver, now, wall)?;
            driver.recovering = Some(RecoveryWatch { progress, outcome: sender });
            Ok(())
        });
        begun.await?.map_err(RecoverError::Refused)?;
        Ok(Recovering { progress: shown, outcome })
    }

    /// Chooses contacts, by the keys of each, of whom `need` together can recover the user; sends each what it is to keep. `by`: a recovery phrase, needed where
    /// there is one.
    ///
    /// # Errors
    /// [`MembershipError`]: [`MembershipError::Refused`] unless there are 2 to [`MAX_GUARDIANS`] of them, and 1 to all are needed.
    pub async fn set_guardians(&self, need: u8, guardians: Vec<Vec<PeerId>>, by: Option<RecoveryPhrase>) -> Result<(), MembershipError> {
        if !(2..=MAX_GUARDIANS).contains(&guardians.len()) || !(1..=guardians.len()).contains(&usize::from(need)) {
            return Err(MembershipError::Refused("there must be 2 to 16 guardians, and 1 to all of them are needed"));
        }
        self.change(move |driver, now, wall| driver.stack.set_guardians(now, wall, need, guardians, by.as_ref())).await
    }

    /// The users for whom this device is a guardian: one for each device that left something here.
    ///
    /// # Errors
    /// [`MembershipError::State`] if they cannot be read.
    pub async fn wards(&self) -> Result<Vec<Ward>, MembershipError> {
        let packages = self.shared.store.run(packages::all).await.map_err(MembershipError::State)?;
        let wards = self.call(move |driver, _, _| {
            let ward = |(from, package): &(PeerId, GuardianPackage)| Ward {
                user: package.vault().user().to_string(),
                from: *from,
                from_name: driver.alias_of(*from),
                made: package.vault().time(),
                need: package.vault().threshold(),
                of: package.vault().count(),
            };
            packages.iter().map(ward).collect()
        });
        Ok(wards.await?)
    }

    /// Vouches, as a guardian of the user, that `device` is theirs, and sends it what they left here: of it what came from one of `senders`, as anybody can send a
    /// package that names any user.
    ///
    /// Whoever calls this must be sure of it: with the word of enough guardians the device can do all that the user can.
    ///
    /// # Errors
    /// [`MembershipError::Refused`] if this device is no guardian of that user.
    pub async fn endorse(&self, user: GroupId, senders: &[PeerId], device: PeerId) -> Result<(), MembershipError> {
        let mut packages = self.shared.store.run(move |c| packages::of(c, user)).await.map_err(MembershipError::State)?;
        packages.retain(|(from, _)| senders.contains(from));
        if packages.is_empty() {
            return Err(MembershipError::Refused("this device keeps nothing of that user, and cannot bring them back"));
        }
        self.call(move |driver, now, wall| {
            for (_, package) in packages.into_iter().take(peers_crypto::MAX_VERSIONS) {
                driver.stack.endorse(now, wall, package, device);
            }
        })
        .await?;
        Ok(())
    }
}

impl Driver {
    /// A recovery that nobody waits for any more ends.
    pub(crate) fn end_abandoned_recovery(&mut self, now: Instant, wall: Timestamp) {
        if self.recovering.as_ref().is_some_and(|watch| watch.outcome.is_closed()) {
            self.recovering = None;
            self.stack.cancel_recovery(now, wall);
        }
    }

    /// A user is back only once that is on disk.
    pub(crate) fn on_restored(&mut self, recovered: Recovered) {
        let (events, waiting) = (self.events.clone(), self.recovering.take().map(|watch| watch.outcome));
        self.store_account(move |stored| {
            if let Err(error) = &stored {
                tracing::error!("the user that came back could not be stored: {error}");
            }
            if stored.is_ok() {
                let _ = events.send(NodeEvent::Restored { user: recovered.user.clone(), name: recovered.name.clone() });
            }
            if let Some(waiting) = waiting {
                let _ = waiting.send(stored.map(|()| recovered).map_err(RecoverError::State));
            }
        });
    }

    /// Someone chose this device as a guardian, or left something newer.
    pub(crate) fn on_package(&self, from: PeerId, bytes: &[u8]) {
        let package = match GuardianPackage::decode(bytes) {
            Ok(package) if package.check().is_ok() => package,
            _ => return tracing::warn!("what {from} left with this device as a guardian is damaged, and not kept"),
        };
        if self.unstored_mail.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() > MAX_UNSTORED_MAIL {
            self.unstored_mail.fetch_sub(bytes.len(), Ordering::Relaxed);
            return tracing::warn!("the disk is behind: what {from} left with this device as a guardian is not taken now");
        }
        let (events, unstored, size) = (self.events.clone(), Arc::clone(&self.unstored_mail), bytes.len());
        let told = NodeEvent::GuardianPackage { from, user: package.vault().user().to_string() };
        let (sender, receiver) = std::sync::mpsc::channel();
        self.store.write(
            move |c| {
                let _ = sender.send(packages::keep(c, from, &package)?);
                Ok(())
            },
            move |stored| {
                unstored.fetch_sub(size, Ordering::Relaxed);
                match stored.map(|()| receiver.recv().unwrap_or(Kept::Refused)) {
                    Ok(Kept::New) => drop(events.send(told)),
                    Ok(Kept::Again) => {}
                    Ok(Kept::Refused) => tracing::warn!("{from} wants this device as a guardian: there is no room for more"),
                    Err(error) => tracing::error!("what {from} left with this device as a guardian could not be stored: {error}"),
                }
            },
        );
    }
}
