//! The command line of you and your devices, of groups, and of recovery.

use clap::{Args, Subcommand, ValueEnum};
use peers_wire::PeerId;
use serde::{Deserialize, Serialize};

use super::{Invite, Passphrase, PublishWait, Stored};

#[derive(Debug, Args)]
#[group(id = "identity")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Id {
    #[command(subcommand)]
    pub(crate) command: Option<Identity>,
    #[command(flatten)]
    pub(crate) passphrase: Passphrase,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Identity {
    /// Show your devices.
    List,
    /// Give yourself another name: the one that others see of you in groups and invitations.
    Rename { name: String },
    /// Take a device out: a lost or a stolen one, for example. What it has read it keeps; what is written from now on it cannot read.
    Revoke {
        /// The name or the id of one of your devices.
        device: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Show which of your devices can read what and since when, what one stolen device would reveal, and who can recover you.
    Audit,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Make a group whose first member and owner is this device.
    Create { name: String },
    /// Show the groups that this device is a member of.
    List,
    /// Let a device of someone into a group: prints a code, or a link, and waits for `peers accept` there.
    Invite {
        /// The name or the id of a group.
        group: String,
        /// What the new member may do: read; also write; also admit and remove members.
        #[arg(long, value_enum, default_value_t = RoleName::Reader)]
        role: RoleName,
        #[command(flatten)]
        invite: Invite,
    },
    /// Show who is in a group.
    Members {
        /// The name or the id of a group.
        group: String,
    },
    /// Give a member another role.
    Role {
        /// The name or the id of a group.
        group: String,
        /// The name or the id of a member.
        member: String,
        role: RoleName,
    },
    /// Remove a member: a device, or with the id of a user all devices of that user. What they have read they keep; what is written from now on they cannot read.
    Remove {
        /// The name or the id of a group.
        group: String,
        /// The name or the id of a member, or the id of a user.
        member: String,
    },
    /// Leave a group with this device.
    Leave {
        /// The name or the id of a group.
        group: String,
    },
    /// Give a group another name.
    Rename {
        /// The name or the id of a group.
        group: String,
        name: String,
    },
    /// Publish a text to a group, or what comes on standard input.
    Publish {
        /// The name or the id of a group.
        group: String,
        /// The text; `-` or nothing reads standard input.
        text: Option<String>,
        /// Return when the message is durable here (queued), or when other peers hold it (stored).
        #[arg(long, value_enum, default_value_t = PublishWait::Queued)]
        wait: PublishWait,
        #[command(flatten)]
        stored: Stored,
    },
    /// Print the messages of a group as they come.
    Follow {
        /// The name or the id of a group.
        group: String,
        /// Begin with the last N messages that are known here.
        #[arg(long, default_value_t = 0, value_name = "N")]
        last: usize,
        /// Stop after N messages.
        #[arg(long, value_name = "N")]
        count: Option<usize>,
        /// Stop after those that are known here.
        #[arg(long)]
        no_wait: bool,
    },
    /// Show which member can read what and since when, what one stolen device would reveal, and who was removed.
    Audit {
        /// The name or the id of a group.
        group: String,
    },
}

/// What a member may do; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoleName {
    /// Reads.
    Reader,
    /// Reads and writes.
    Writer,
    /// Also admits and removes members.
    Owner,
}

impl From<RoleName> for peers_crypto::Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Reader => Self::Reader,
            RoleName::Writer => Self::Writer,
            RoleName::Owner => Self::Owner,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Recovery {
    /// Make a recovery phrase of 24 words, to be kept on paper: with it a new device is yours even if all others are lost.
    Phrase {
        /// Put it in the place of the one you have; asks for the words of that one first.
        #[arg(long)]
        replace: bool,
    },
    /// Show what can recover you, and for whom you are a guardian.
    List,
    /// Make a recovery phrase void; asks for its words, or for those of another one.
    Remove {
        /// The key of the phrase, as `peers recovery list` shows it.
        #[arg(value_name = "KEY")]
        id: PeerId,
    },
    /// Make this device, which is new, yours by your recovery phrase; asks for its words.
    Restore,
    /// Friends who together can bring you back.
    #[command(subcommand)]
    Guardians(Guardians),
    /// Make this device, which is new, yours by the word of your guardians: waits for them.
    Ask {
        /// Who you are: the id that your guardians see in `peers recovery list`. Ask one of them.
        #[arg(long, value_name = "ID")]
        user: String,
    },
    /// As a guardian, vouch that a new device belongs to your friend. Be sure that it is your friend who asks: talk to them.
    Endorse {
        /// The id of the new device, as `peers recovery ask` shows it there.
        device: PeerId,
        /// Your friend: the id or the name, as `peers recovery list` shows it.
        #[arg(long = "for", value_name = "USER")]
        user: String,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Guardians {
    /// Choose friends; of whom so many together can bring you back, and fewer can do and learn nothing.
    Set {
        /// How many of them it takes.
        #[arg(long, value_name = "K")]
        need: u8,
        /// The ids of the friends' devices (several of one friend: with commas between them), or names of members of your groups.
        #[arg(required = true, value_name = "CONTACT")]
        contacts: Vec<String>,
    },
    /// Show your guardians.
    List,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Sure {
    /// Do not ask; needed where standard input is no terminal.
    #[arg(long)]
    pub(crate) yes: bool,
}
