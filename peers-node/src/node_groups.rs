//! Users and groups of a [`Node`]: who is in, who may do what, who can read what.

use std::time::Instant;

use peers_crypto::{Fork, GroupError, GroupId, Role};
use peers_wire::{PeerId, Timestamp, TopicId};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::driver::Driver;
use crate::handles::Invitation;
use crate::linking::LinkOptions;
use crate::membership::{AuditReport, GroupStatus};
use crate::node::{Closed, LinkError, Node};
use crate::store::StoreError;
use crate::types::NodeEvent;

/// Why a user or group was not changed.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// It is not allowed, or has no meaning.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Something is in the way; it says what.
    #[error("{0}")]
    Refused(&'static str),
    /// It holds until the node ends, and could not be stored on this device.
    #[error("the change could not be stored on this device: {0}")]
    State(StoreError),
    /// The node is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl Node {
    /// The user of this device, with all devices.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn user(&self) -> Result<GroupStatus, Closed> {
        self.call(|driver, _, _| driver.group_status(driver.stack.account().user())).await
    }

    /// The groups that this device is in, by name.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn groups(&self) -> Result<Vec<GroupStatus>, Closed> {
        let groups = self.call(|driver, _, _| {
            let groups = driver.stack.account().groups();
            groups.map(|membership| driver.group_status(membership.group())).collect::<Vec<_>>()
        });
        let mut groups = groups.await?;
        groups.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(groups)
    }

    /// Makes a group whose only member, an owner, is this device.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn create_group(&self, name: &str) -> Result<GroupId, MembershipError> {
        let name = name.to_owned();
        self.change(move |driver, now, wall| driver.stack.create_group(now, wall, &name)).await
    }

    /// Invites a device to a group: whoever takes the ticket there within ten minutes gets that role.
    ///
    /// # Errors
    /// [`LinkError::Refused`] if this device may not invite to it, or while another linking is under way.
    pub async fn invite_to(&self, group: GroupId, role: Role, options: LinkOptions) -> Result<Invitation, LinkError> {
        self.invite_into(Some((group, role)), options).await
    }

    /// Removes a device from a group, or from the user (which is a group of its devices) and with that from all groups here; or has this device leave a group.
    ///
    /// The keys change: what is written from then on it cannot read, by whomever that hears of the removal.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove_member(&self, group: GroupId, device: PeerId) -> Result<(), MembershipError> {
        self.change(move |driver, now, wall| {
            let account = driver.stack.account();
            let user = account.id();
            let revoked = group == user && account.has_device(device);
            let others = account.groups().filter(|other| revoked && other.group().contains(device)).map(|other| other.group().id());
            let others: Vec<_> = others.collect();
            driver.stack.remove_member(now, wall, group, device)?;
            // A member may take out the other devices of its own user that can do no more than itself; one group that refuses keeps it out of no other.
            let refused =
                others.into_iter().map(|other| driver.stack.remove_member(now, wall, other, device)).filter_map(Result::err).last();
            refused.map_or(Ok(()), Err)
        })
        .await
    }

    /// Gives a member of a group another role.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn set_role(&self, group: GroupId, device: PeerId, role: Role) -> Result<(), MembershipError> {
        self.change(move |driver, now, wall| driver.stack.set_role(now, wall, group, device, role)).await
    }

    /// Gives a group, or the user, another name.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn rename(&self, group: GroupId, name: &str) -> Result<(), MembershipError> {
        let name = name.to_owned();
        self.change(move |driver, now, wall| driver.stack.rename(now, wall, group, &name)).await
    }

    /// Who can read and do what in a group, or in the user; `None` if this device is not in it.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn audit(&self, group: GroupId) -> Result<Option<AuditReport>, Closed> {
        self.call(move |driver, _, _| {
            let audit = driver.stack.audit(group)?;
            let group = driver.stack.account().membership(group)?.group();
            Some(AuditReport::new(audit, group, driver.group_status(group)))
        })
        .await
    }

    /// Changes the account, and returns once that is on disk.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Driver, Instant, Timestamp) -> Result<T, GroupError> + Send + 'static,
    ) -> Result<T, MembershipError> {
        let (sender, stored) = oneshot::channel();
        let done = self.call(move |driver, now, wall| {
            let done = work(driver, now, wall);
            driver.drain(now, wall);
            driver.store_account(|result| drop(sender.send(result)));
            done
        });
        let done = done.await??;
        stored.await.map_err(|_| Closed)?.map_err(MembershipError::State)?;
        Ok(done)
    }
}

impl Driver {
    pub(crate) fn group_status(&self, group: &peers_crypto::Group) -> GroupStatus {
        let stack = &self.stack;
        GroupStatus::new(group, stack.id(), stack.account().user(), |peer| stack.is_connected(peer))
    }

    /// The name of who wrote on a topic: of a device of the user, or a member of the group whose topic it is.
    pub(crate) fn name_in(&self, topic: TopicId, peer: PeerId) -> Option<String> {
        let group = self.stack.account().membership(GroupId(topic.0));
        self.name_of(peer).or_else(|| group.and_then(|membership| membership.group().name_of(peer)).map(str::to_owned))
    }

    /// A name of a peer for people, who are told its key as well: anyone in a group may have chosen it.
    pub(crate) fn alias_of(&self, peer: PeerId) -> Option<String> {
        let groups = self.stack.account().groups();
        self.name_of(peer).or_else(|| groups.into_iter().find_map(|membership| membership.group().name_of(peer)).map(str::to_owned))
    }

    /// A key that was used in two places is told of once.
    pub(crate) fn tell_forks(&mut self) {
        let account = self.stack.account();
        let groups = core::iter::once(account.user()).chain(account.groups().map(|membership| membership.group()));
        let forks = groups.flat_map(|group| group.forks().iter().map(move |fork| (group, *fork)));
        let mut told = Vec::new();
        for (group, Fork { key, statements }) in forks {
            if self.forks.len() < MAX_FORKS && self.forks.insert(statements.map(|statement| statement.0)) {
                let name = group.name_of(key).map(str::to_owned);
                told.push(NodeEvent::KeyForked { group: group.id().to_string(), group_name: group.name().to_owned(), key, name });
            }
        }
        told.into_iter().for_each(|event| self.tell(event));
    }
}

/// Keys in two places that are told of.
const MAX_FORKS: usize = 1024;
