//! The body of the fuzz target for linking.

use peers_wire::{Reader, Timestamp};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::{Acceptor, AcceptorEvent, DeviceKey, Inviter, InviterEvent, LinkStep, Ticket};

const WALL: Timestamp = Timestamp(1_700_000_000_000);
const OFFER: &[u8] = b"offer";
const CONSENT: &[u8] = b"consent";
const WELCOME: &[u8] = b"welcome";
/// Steps of one run: a step with an exchange of keys takes some 100 us.
const MAX_STEPS: usize = 64;

/// Laptop and phone with what is on its way between them, and what each was told.
struct Conversation {
    /// Laptop, phone, and a stranger.
    keys: [DeviceKey; 3],
    inviter: Inviter,
    acceptor: Acceptor,
    /// Everything ever said: to the inviter or not, and what.
    said: Vec<(bool, Vec<u8>)>,
    shown: [Option<String>; 2],
    /// The contents of offer, consent and welcome have arrived.
    arrived: [bool; 3],
    over: [bool; 2],
}

/// Whatever is delivered, again, late, altered or made up, by whomever: each content arrives once and as it was said, both sides show the same words, and after its end a side takes nothing.
pub fn crypto_link(data: &[u8]) {
    let mut input = Reader::new(data);
    let mut conversation = Conversation::new();
    for _ in 0..MAX_STEPS {
        let (Ok(what), Ok(which)) = (input.u8(), input.u8()) else { break };
        let which = usize::from(which);
        let at_inviter = what & 0x80 != 0;
        match what & 7 {
            0..=2 => conversation.deliver(which, &mut Reader::new(&[])),
            3 => conversation.deliver(which, &mut input),
            4 => {
                let length = usize::from(what >> 3 & 15) * 8;
                let made_up = input.bytes(length).unwrap_or_default().to_vec();
                conversation.hand(at_inviter, which % 3, &made_up);
            }
            5 => {
                // In the session of the acceptor, which everybody reads.
                let made_up = [&[what >> 3 & 7][..], &conversation.said[0].1[1..17], input.bytes(which).unwrap_or_default()].concat();
                conversation.hand(at_inviter, 2, &made_up);
            }
            6 if which == 0 => conversation.expire(at_inviter),
            _ if which == 0 => conversation.decline(at_inviter),
            _ => conversation.deliver(conversation.said.len() - 1, &mut Reader::new(&[])),
        }
    }
    let Conversation { shown, arrived, .. } = &conversation;
    assert!(shown[1].is_none() || shown[0] == shown[1], "words of an offer that the inviter never made");
    assert!(arrived.is_sorted_by(|earlier, later| earlier >= later), "a content out of turn");
}

impl Conversation {
    fn new() -> Self {
        let keys = [4, 5, 6].map(|seed| DeviceKey::from_seed(&[seed; 32]));
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let ticket: Ticket = "zoo acid actor zebra".parse().expect("a code");
        let inviter = Inviter::new(&ticket, &keys[0], WALL, rng);
        let (acceptor, hello) = Acceptor::new(&ticket, &keys[1], "phone", WALL, rng).expect("a name");
        Self { keys, inviter, acceptor, said: vec![(true, hello)], shown: [None, None], arrived: [false; 3], over: [false; 2] }
    }

    /// One of the messages said so far, altered where the input says so.
    fn deliver(&mut self, which: usize, changes: &mut Reader<'_>) {
        let (at_inviter, mut message) = self.said[which % self.said.len()].clone();
        if let (Ok(at), Ok(bits)) = (changes.u16(), changes.u8()) {
            let at = usize::from(at) % message.len();
            message[at] ^= bits;
        }
        self.hand(at_inviter, usize::from(at_inviter), &message);
    }

    fn hand(&mut self, at_inviter: bool, from: usize, message: &[u8]) {
        let from = self.keys[from].id();
        if at_inviter {
            let step = self.inviter.handle(WALL, from, message);
            self.on_inviter(step);
        } else {
            let step = self.acceptor.handle(WALL, from, message);
            self.on_acceptor(step);
        }
    }

    fn on_inviter(&mut self, step: LinkStep<InviterEvent>) {
        let said = match step {
            LinkStep::Reply(message) => Some(message),
            LinkStep::Event(event) => {
                assert!(!self.over[0], "{event:?} after the end");
                match event {
                    InviterEvent::Proven { device, name, words } => {
                        assert_eq!((device, &*name, self.shown[0].replace(words)), (self.keys[1].id(), "phone", None));
                        self.inviter.offer(OFFER)
                    }
                    InviterEvent::Answered(content) => {
                        self.arrive(1, CONSENT, &content);
                        self.over[0] = true;
                        self.inviter.welcome(WELCOME)
                    }
                }
            }
            LinkStep::Refused { reply, .. } => {
                assert!(!core::mem::replace(&mut self.over[0], true), "it ends once");
                reply
            }
            LinkStep::Ignore => None,
        };
        assert_eq!(self.inviter.is_pending(), !self.over[0]);
        self.said.extend(said.map(|message| (false, message)));
    }

    fn on_acceptor(&mut self, step: LinkStep<AcceptorEvent>) {
        assert!(!self.over[1] || step == LinkStep::Ignore, "{step:?} after the end");
        let said = match step {
            LinkStep::Reply(message) => Some(message),
            LinkStep::Event(AcceptorEvent::Offered { inviter, offer, words }) => {
                assert_eq!((inviter, self.shown[1].replace(words)), (self.keys[0].id(), None));
                self.arrive(0, OFFER, &offer);
                self.acceptor.answer(WALL, CONSENT)
            }
            LinkStep::Event(AcceptorEvent::Done(content)) => {
                self.arrive(2, WELCOME, &content);
                self.over[1] = true;
                None
            }
            LinkStep::Refused { reply, .. } => {
                self.over[1] = true;
                reply
            }
            LinkStep::Ignore => None,
        };
        assert_eq!(self.acceptor.is_pending(), !self.over[1]);
        self.said.extend(said.map(|message| (true, message)));
    }

    fn arrive(&mut self, which: usize, said: &[u8], got: &[u8]) {
        assert_eq!(got, said);
        assert!(!core::mem::replace(&mut self.arrived[which], true), "a content arrives once");
    }

    fn expire(&mut self, inviter: bool) {
        if inviter {
            let step = self.inviter.expire();
            self.on_inviter(step);
        } else {
            let step = self.acceptor.expire();
            self.on_acceptor(step);
        }
    }

    fn decline(&mut self, inviter: bool) {
        let said = if inviter { self.inviter.decline() } else { self.acceptor.decline() };
        self.over[usize::from(!inviter)] = true;
        self.said.extend(said.map(|message| (!inviter, message)));
    }
}
