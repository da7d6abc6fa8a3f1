use core::fmt;

use peers_wire::{PeerId, Timestamp};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::link_message::Message;
use crate::{DeviceKey, GroupError, LinkUri, Ticket};

const WALL: Timestamp = Timestamp(1_700_000_000_000);
const CODE: &str = "zoo acid actor zebra";
const OFFER: &[u8] = b"Alice, from the laptop";
const CONSENT: &[u8] = b"the phone agrees";
const WELCOME: &[u8] = b"the secret of Alice";

/// Laptop invites, phone accepts; both callers say what the constants above are.
struct Pair {
    laptop: DeviceKey,
    phone: DeviceKey,
    inviter: Inviter,
    acceptor: Acceptor,
    hello: Vec<u8>,
    rng: ChaCha20Rng,
}

fn pair_of(shown: &Ticket, taken: &Ticket) -> Pair {
    let [laptop, phone] = [1, 2].map(|seed| DeviceKey::from_seed(&[seed; 32]));
    let mut rng = ChaCha20Rng::seed_from_u64(6);
    let inviter = Inviter::new(shown, &laptop, WALL, &mut rng);
    let (acceptor, hello) = Acceptor::new(taken, &phone, "phone", WALL, &mut rng).unwrap();
    Pair { laptop, phone, inviter, acceptor, hello, rng }
}

fn pair(shown: &str, typed: &str) -> Pair {
    pair_of(&shown.parse().unwrap(), &typed.parse().unwrap())
}

fn linked() -> Pair {
    pair(CODE, CODE)
}

fn by_link() -> Pair {
    let laptop = DeviceKey::from_seed(&[1; 32]);
    let link = LinkUri::generate(laptop.id(), &[], &mut ChaCha20Rng::seed_from_u64(1)).into();
    pair_of(&link, &link)
}

fn reply<E: fmt::Debug>(step: LinkStep<E>) -> Vec<u8> {
    match step {
        LinkStep::Reply(message) => message,
        other => panic!("a reply, not {other:?}"),
    }
}

fn event<E: fmt::Debug>(step: LinkStep<E>) -> E {
    match step {
        LinkStep::Event(event) => event,
        other => panic!("an event, not {other:?}"),
    }
}

fn refused<E: fmt::Debug>(step: LinkStep<E>) -> (LinkRefusal, Option<Vec<u8>>) {
    match step {
        LinkStep::Refused { reason, reply } => (reason, reply),
        other => panic!("refused, not {other:?}"),
    }
}

fn ignored<E>(step: &LinkStep<E>) -> bool {
    matches!(step, LinkStep::Ignore)
}

/// What both sides show and get.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    words: [Option<String>; 2],
    offer: Option<Vec<u8>>,
    consent: Option<Vec<u8>>,
    welcome: Option<Vec<u8>>,
}

impl Pair {
    fn at_inviter(&mut self, message: &[u8]) -> LinkStep<InviterEvent> {
        self.inviter.handle(WALL, self.phone.id(), message)
    }

    fn at_acceptor(&mut self, message: &[u8]) -> LinkStep<AcceptorEvent> {
        self.acceptor.handle(WALL, self.laptop.id(), message)
    }

    fn proof(&mut self) -> Vec<u8> {
        let answer = reply(self.inviter.handle(WALL, self.phone.id(), &self.hello));
        reply(self.at_acceptor(&answer))
    }

    /// Goes on to the offer; gives it and the words that the inviter shows.
    fn offer(&mut self) -> (Vec<u8>, String) {
        let proof = self.proof();
        let InviterEvent::Proven { device, name, words } = event(self.at_inviter(&proof)) else { panic!("proven") };
        assert_eq!((device, &*name), (self.phone.id(), "phone"));
        (self.inviter.offer(OFFER).unwrap(), words)
    }

    /// Goes on to the consent.
    fn consent(&mut self) -> Vec<u8> {
        let (offer, shown) = self.offer();
        let AcceptorEvent::Offered { inviter, offer, words } = event(self.at_acceptor(&offer)) else { panic!("offered") };
        assert_eq!((inviter, &*offer), (self.laptop.id(), OFFER));
        assert_eq!(words, shown);
        assert_eq!(words.split(' ').count(), 3);
        self.acceptor.answer(WALL, CONSENT).unwrap()
    }

    fn welcome(&mut self) -> Vec<u8> {
        let consent = self.consent();
        assert_eq!(event(self.at_inviter(&consent)), InviterEvent::Answered(CONSENT.to_vec()));
        self.inviter.welcome(WELCOME).unwrap()
    }

    fn finish(&mut self) {
        let welcome = self.welcome();
        let AcceptorEvent::Done(content) = event(self.at_acceptor(&welcome)) else { panic!("done") };
        assert_eq!(*content, WELCOME);
        assert!(!self.inviter.is_pending() && !self.acceptor.is_pending());
    }

    /// Hands a message over as the callers would; gives what is published next.
    fn pass(&mut self, to_inviter: bool, message: &[u8], outcome: &mut Outcome) -> Option<Vec<u8>> {
        if to_inviter {
            match self.at_inviter(message) {
                LinkStep::Reply(message) => Some(message),
                LinkStep::Event(InviterEvent::Proven { words, .. }) => {
                    assert_eq!(outcome.words[0].replace(words), None);
                    self.inviter.offer(OFFER)
                }
                LinkStep::Event(InviterEvent::Answered(content)) => {
                    assert_eq!(outcome.consent.replace(content), None);
                    self.inviter.welcome(WELCOME)
                }
                LinkStep::Refused { reply, .. } => reply,
                LinkStep::Ignore => None,
            }
        } else {
            match self.at_acceptor(message) {
                LinkStep::Reply(message) => Some(message),
                LinkStep::Event(AcceptorEvent::Offered { offer, words, .. }) => {
                    assert_eq!(outcome.words[1].replace(words), None);
                    outcome.offer = Some(offer);
                    self.acceptor.answer(WALL, CONSENT)
                }
                LinkStep::Event(AcceptorEvent::Done(content)) => {
                    assert_eq!(outcome.welcome.replace(content.to_vec()), None);
                    None
                }
                LinkStep::Refused { reply, .. } => reply,
                LinkStep::Ignore => None,
            }
        }
    }
}

impl Outcome {
    fn is_right(&self) -> bool {
        let contents = [(&self.offer, OFFER), (&self.consent, CONSENT), (&self.welcome, WELCOME)];
        self.words[0].is_some() && self.words[0] == self.words[1] && contents.iter().all(|(got, said)| got.as_deref() == Some(*said))
    }
}

#[test]
fn a_device_is_linked_by_a_code_and_by_a_link_and_both_show_the_same_words() {
    linked().finish();
    by_link().finish();
    let [one, other] = [linked().offer().1, by_link().offer().1];
    assert_ne!(one, other);
}

#[test]
fn a_device_of_the_longest_name_is_linked_and_one_without_a_name_is_not() {
    let mut pair = linked();
    let name = "n".repeat(crate::MAX_NAME);
    let code = CODE.parse().unwrap();
    (pair.acceptor, pair.hello) = Acceptor::new(&code, &pair.phone, &name, WALL, &mut pair.rng).unwrap();
    let proof = pair.proof();
    assert!(matches!(event(pair.at_inviter(&proof)), InviterEvent::Proven { name: got, .. } if got == name));
    assert_eq!(Acceptor::new(&code, &pair.phone, "", WALL, &mut pair.rng).err(), Some(GroupError::Name));
}

#[test]
fn a_wrong_code_ends_the_invitation_and_both_learn_it() {
    let mut pair = pair(CODE, "zoo acid actor zero");
    let proof = pair.proof();
    let (reason, refusal) = refused(pair.at_inviter(&proof));
    assert_eq!(reason, LinkRefusal::WrongCode);
    let refusal = refusal.unwrap();
    assert_eq!(reply(pair.at_inviter(&proof)), refusal, "if it was lost, the same again");
    assert_eq!(refused(pair.at_acceptor(&refusal)).0, LinkRefusal::WrongCode);
    assert_eq!((pair.inviter.offer(OFFER), pair.inviter.welcome(WELCOME), pair.inviter.decline()), (None, None, None));
}

#[test]
fn a_second_guess_with_the_right_code_comes_too_late_and_is_told_so_and_counted() {
    let mut pair = pair(CODE, "zoo acid actor zero");
    let proof = pair.proof();
    refused(pair.at_inviter(&proof));
    assert_eq!(pair.inviter.attempts(), 1);
    let (mut second, hello) = Acceptor::new(&CODE.parse().unwrap(), &pair.phone, "phone", WALL, &mut pair.rng).unwrap();
    let refusal = reply(pair.at_inviter(&hello));
    assert_eq!(pair.inviter.attempts(), 2);
    // Anybody can say so: it waits for another who knows the code, but not for long.
    assert!(ignored(&second.handle(WALL, pair.laptop.id(), &refusal)));
    assert_eq!(second.expires(), WALL.plus(HEARSAY_PATIENCE));
    assert_eq!(refused(second.expire()).0, LinkRefusal::Spent);
    // The same once the invitation was used well.
    let mut pair = linked();
    pair.finish();
    let stranger = DeviceKey::from_seed(&[9; 32]);
    let (_, hello) = Acceptor::new(&CODE.parse().unwrap(), &stranger, "x", WALL, &mut pair.rng).unwrap();
    assert_eq!(reply(pair.inviter.handle(WALL, stranger.id(), &hello)).len(), 18);
    assert_eq!(pair.inviter.attempts(), 2);
}

#[test]
fn an_invitation_expires_after_ten_minutes_and_late_comers_are_told() {
    let mut pair = linked();
    let late = WALL.plus(INVITATION_LIFETIME);
    assert_eq!(pair.inviter.expires(), late);
    let proof = pair.proof();
    assert_eq!(refused(pair.inviter.handle(late, pair.phone.id(), &proof)), (LinkRefusal::Expired, None));
    let refusal = reply(pair.inviter.handle(late, pair.phone.id(), &proof));
    assert_eq!(refused(pair.at_acceptor(&refusal)).0, LinkRefusal::Expired);
    let (mut second, hello) = Acceptor::new(&CODE.parse().unwrap(), &pair.phone, "phone", late, &mut pair.rng).unwrap();
    let refusal = reply(pair.inviter.handle(late, pair.phone.id(), &hello));
    assert!(ignored(&second.handle(late, pair.laptop.id(), &refusal)));
    assert_eq!(refused(second.expire()).0, LinkRefusal::Expired);
}

#[test]
fn an_acceptor_whom_nobody_answers_gives_up_after_a_minute_and_says_what_it_met() {
    let mut pair = linked();
    let late = WALL.plus(ACCEPTOR_PATIENCE);
    assert_eq!(pair.acceptor.expires(), late);
    assert_eq!(refused(pair.acceptor.handle(late, pair.laptop.id(), b"")), (LinkRefusal::Nobody, None));
    assert!(ignored(&pair.acceptor.handle(WALL, pair.laptop.id(), b"")) && ignored(&pair.acceptor.expire()), "over is over");
    let mut pair = linked();
    pair.proof();
    assert_eq!(refused(pair.acceptor.expire()), (LinkRefusal::Unproven, None));
}

#[test]
fn people_have_five_minutes_to_compare_words_and_the_other_side_learns_if_they_do_not() {
    let mut pair = linked();
    let later = WALL.plus(INVITATION_LIFETIME - 1);
    let proof = pair.proof();
    event(pair.inviter.handle(later, pair.phone.id(), &proof));
    let deadline = later.plus(CONFIRMATION_LIFETIME);
    assert_eq!(pair.inviter.expires(), deadline, "the guess came in time: what follows has its own time");
    let offer = pair.inviter.offer(OFFER).unwrap();
    event(pair.at_acceptor(&offer));
    let (reason, refusal) = refused(pair.inviter.handle(deadline, pair.phone.id(), b""));
    assert_eq!(reason, LinkRefusal::Expired);
    assert_eq!(refused(pair.at_acceptor(&refusal.unwrap())), (LinkRefusal::Expired, None));
    let mut pair = linked();
    pair.consent();
    let (reason, refusal) = refused(pair.acceptor.expire());
    assert_eq!(reason, LinkRefusal::Expired);
    assert_eq!(refused(pair.at_inviter(&refusal.unwrap())), (LinkRefusal::Expired, None));
}

#[test]
fn who_says_no_on_either_side_ends_it_on_both_before_anything_secret_is_said() {
    let mut pair = linked();
    let consent = pair.consent();
    event(pair.at_inviter(&consent));
    let refusal = pair.inviter.decline().unwrap();
    assert_eq!(pair.inviter.welcome(WELCOME), None);
    assert_eq!(refused(pair.at_acceptor(&refusal)), (LinkRefusal::Declined, None));
    let mut pair = linked();
    let (offer, _) = pair.offer();
    event(pair.at_acceptor(&offer));
    let refusal = pair.acceptor.decline().unwrap();
    assert_eq!(pair.acceptor.answer(WALL, CONSENT), None);
    assert_eq!(refused(pair.at_inviter(&refusal)), (LinkRefusal::Declined, None));
    assert_eq!((linked().acceptor.decline(), linked().inviter.decline()), (None, None), "nobody is there to be told");
}

#[test]
fn a_refusal_of_a_stranger_ends_nothing() {
    let mut pair = linked();
    let stranger = DeviceKey::from_seed(&[9; 32]).id();
    let consent = pair.consent();
    let mut refusal = [[7].as_slice(), &pair.hello[1..17], &[1]].concat();
    for reason in 0..6 {
        refusal[17] = reason;
        assert!(ignored(&pair.acceptor.handle(WALL, stranger, &refusal)));
        assert!(ignored(&pair.inviter.handle(WALL, stranger, &refusal)));
    }
    event(pair.at_inviter(&consent));
}

#[test]
fn messages_of_strangers_do_not_end_the_invitation() {
    let mut pair = linked();
    let stranger = DeviceKey::from_seed(&[9; 32]);
    let other_words = "zoo zebra zebra zebra".parse().unwrap();
    let (mut other_acceptor, other_hello) = Acceptor::new(&other_words, &stranger, "x", WALL, &mut pair.rng).unwrap();
    let mut other_inviter = Inviter::new(&other_words, &stranger, WALL, &mut pair.rng);
    // Another pair with the same first word: hellos are answered by both inviters, and nobody is harmed by a share.
    let ours_to_other = reply(pair.inviter.handle(WALL, stranger.id(), &other_hello));
    let others_to_ours = reply(other_inviter.handle(WALL, pair.phone.id(), &pair.hello));
    assert!(ignored(&pair.at_acceptor(&ours_to_other)), "for another session");
    // The stranger answers first: our acceptor tries its code there, and the stranger refuses; ours answers meanwhile.
    let misdirected = reply(pair.acceptor.handle(WALL, stranger.id(), &others_to_ours));
    let (_, refusal) = refused(other_inviter.handle(WALL, pair.phone.id(), &misdirected));
    assert!(ignored(&pair.at_inviter(&misdirected)), "a proof for another inviter is no guess here");
    let proof = pair.proof();
    assert!(ignored(&pair.acceptor.handle(WALL, stranger.id(), &refusal.unwrap())), "ours has not refused");
    for garbage in [&b""[..], b"\x01", &[3; 200], &[4; 90], &[2; 49], &[5; 17], &[6; 40], &[7; 18]] {
        assert!(ignored(&pair.inviter.handle(WALL, stranger.id(), garbage)));
        assert!(ignored(&pair.acceptor.handle(WALL, stranger.id(), garbage)));
        assert!(ignored(&other_acceptor.handle(WALL, stranger.id(), garbage)));
    }
    assert!(ignored(&pair.inviter.handle(WALL, stranger.id(), &proof)), "nobody guesses without a hello of its own");
    event(pair.at_inviter(&proof));
    let offer = pair.inviter.offer(OFFER).unwrap();
    assert!(ignored(&pair.acceptor.handle(WALL, stranger.id(), &offer)), "replayed by a stranger");
    event(pair.at_acceptor(&offer));
}

#[test]
fn a_link_is_accepted_from_the_device_that_it_names_alone() {
    let mut pair = by_link();
    let answer = reply(pair.inviter.handle(WALL, pair.phone.id(), &pair.hello));
    assert!(ignored(&pair.acceptor.handle(WALL, DeviceKey::from_seed(&[9; 32]).id(), &answer)));
    reply(pair.at_acceptor(&answer));
}

#[test]
fn a_flood_of_hellos_is_answered_up_to_a_bound_and_then_said_to_be_one() {
    let mut pair = linked();
    let strangers: Vec<PeerId> = (0..MAX_ANSWERED_HELLOS).map(|i| PeerId([i.to_le_bytes()[0]; 32])).collect();
    for stranger in &strangers {
        reply(pair.inviter.handle(WALL, *stranger, &pair.hello));
    }
    let repeats = (0..100).filter(|_| !ignored(&pair.inviter.handle(WALL, strangers[0], &pair.hello))).count();
    assert_eq!(repeats, usize::from(MAX_REPEATS) - 1, "one that comes again and again");
    let hello = pair.hello.clone();
    assert_eq!(refused(pair.at_inviter(&hello)), (LinkRefusal::Flooded, None));
    assert!(ignored(&pair.at_inviter(&hello)));
    assert_eq!(pair.inviter.attempts(), MAX_ANSWERED_HELLOS);
}

#[test]
fn an_acceptor_tries_its_code_on_few_inviters() {
    let mut pair = linked();
    let answer = reply(pair.inviter.handle(WALL, pair.phone.id(), &pair.hello));
    let share: [u8; 32] = answer[17..].try_into().unwrap();
    let answer = Message::Answer { session: pair.hello[1..17].try_into().unwrap(), share }.encode();
    let tried = (10..30).filter(|seed| !ignored(&pair.acceptor.handle(WALL, PeerId([*seed; 32]), &answer))).count();
    assert_eq!(tried, MAX_TRIED_INVITERS);
    let again = (0..100).filter(|_| !ignored(&pair.acceptor.handle(WALL, PeerId([10; 32]), &answer))).count();
    assert_eq!(again, usize::from(MAX_REPEATS));
}

#[test]
fn who_passes_every_message_on_under_its_own_name_learns_nothing_and_is_noticed() {
    // The names are part of the keys: the middle can be either side to both, and proves itself to none.
    let mut pair = linked();
    let middle = DeviceKey::from_seed(&[9; 32]);
    let answer = reply(pair.inviter.handle(WALL, middle.id(), &pair.hello));
    let mut proof = reply(pair.acceptor.handle(WALL, middle.id(), &answer));
    assert_eq!(&proof[49..81], &middle.id().0);
    assert!(ignored(&pair.inviter.handle(WALL, middle.id(), &proof)), "addressed to the middle");
    proof[49..81].copy_from_slice(&pair.laptop.id().0);
    assert_eq!(refused(pair.inviter.handle(WALL, middle.id(), &proof)).0, LinkRefusal::WrongCode);
    // From the offer on it passes on what it cannot open, and stands where nobody looks.
    let mut pair = linked();
    let welcome = pair.welcome();
    assert!(ignored(&pair.acceptor.handle(WALL, middle.id(), &welcome)));
    event(pair.at_acceptor(&welcome));
}

#[test]
fn who_stands_between_and_answers_with_its_own_shares_has_one_guess_on_each_side() {
    // The middle plays the inviter to the phone and the acceptor to the laptop, with words of its own.
    let guess = "zoo zoo zoo zoo".parse().unwrap();
    let middle = DeviceKey::from_seed(&[9; 32]);
    let mut pair = linked();
    let mut to_phone = Inviter::new(&guess, &middle, WALL, &mut pair.rng);
    let (mut to_laptop, hello) = Acceptor::new(&guess, &middle, "phone", WALL, &mut pair.rng).unwrap();
    let answer = reply(to_phone.handle(WALL, pair.phone.id(), &pair.hello));
    let proof = reply(pair.acceptor.handle(WALL, middle.id(), &answer));
    assert_eq!(refused(to_phone.handle(WALL, pair.phone.id(), &proof)).0, LinkRefusal::WrongCode);
    let answer = reply(pair.inviter.handle(WALL, middle.id(), &hello));
    let proof = reply(to_laptop.handle(WALL, pair.laptop.id(), &answer));
    assert_eq!(refused(pair.inviter.handle(WALL, middle.id(), &proof)).0, LinkRefusal::WrongCode);
    // Who has seen the code shows other words on the two sides than they would, and other devices than theirs.
    let code = CODE.parse().unwrap();
    let mut pair = linked();
    let mut to_phone = Inviter::new(&code, &middle, WALL, &mut pair.rng);
    let (mut to_laptop, hello) = Acceptor::new(&code, &middle, "phone", WALL, &mut pair.rng).unwrap();
    let answer = reply(to_phone.handle(WALL, pair.phone.id(), &pair.hello));
    let proof = reply(pair.acceptor.handle(WALL, middle.id(), &answer));
    event(to_phone.handle(WALL, pair.phone.id(), &proof));
    let offer = to_phone.offer(OFFER).unwrap();
    let AcceptorEvent::Offered { words: on_phone, inviter, .. } = event(pair.acceptor.handle(WALL, middle.id(), &offer)) else { panic!() };
    let answer = reply(pair.inviter.handle(WALL, middle.id(), &hello));
    let proof = reply(to_laptop.handle(WALL, pair.laptop.id(), &answer));
    let InviterEvent::Proven { words: on_laptop, device, .. } = event(pair.inviter.handle(WALL, middle.id(), &proof)) else { panic!() };
    assert_ne!(on_phone, on_laptop);
    assert_eq!((inviter, device), (middle.id(), middle.id()));
}

#[test]
fn a_message_altered_in_any_byte_never_changes_what_either_side_gets() {
    for altered in 0..6 {
        let mut length = 1;
        let mut at = 0;
        while at < length {
            let (mut pair, mut outcome) = (linked(), Outcome::default());
            let (mut to_inviter, mut next) = (true, Some(pair.hello.clone()));
            for number in 0..6 {
                let Some(mut message) = next.take() else { break };
                if number == altered {
                    length = message.len();
                    message[at] ^= 1;
                }
                next = pair.pass(to_inviter, &message, &mut outcome);
                to_inviter = !to_inviter;
            }
            // Commitments to the shares that no second or third inviter has called for are of no effect.
            let unused = altered == 0 && at >= 17 + 32;
            assert_eq!(outcome.is_right(), unused, "message {altered}, byte {at}");
            let contents = [(&outcome.offer, OFFER), (&outcome.consent, CONSENT), (&outcome.welcome, WELCOME)];
            for (got, said) in contents {
                assert!(got.as_deref().is_none_or(|got| got == said), "message {altered}, byte {at}");
            }
            assert!(outcome.words[1].is_none() || outcome.words[0] == outcome.words[1], "message {altered}, byte {at}");
            at += 1;
        }
    }
}

#[test]
fn a_sealed_message_altered_or_cut_is_ignored_and_the_true_one_still_counts() {
    let mut pair = linked();
    let spoiled = |message: &[u8]| -> Vec<Vec<u8>> {
        let flipped = (0..message.len()).map(|at| {
            let mut altered = message.to_vec();
            altered[at] ^= 1;
            altered
        });
        flipped.chain((0..message.len()).map(|at| message[..at].to_vec())).collect()
    };
    let (offer, _) = pair.offer();
    assert!(spoiled(&offer).iter().all(|message| ignored(&pair.at_acceptor(message))));
    event(pair.at_acceptor(&offer));
    let consent = pair.acceptor.answer(WALL, CONSENT).unwrap();
    assert!(spoiled(&consent).iter().all(|message| ignored(&pair.at_inviter(message))));
    event(pair.at_inviter(&consent));
    let welcome = pair.inviter.welcome(WELCOME).unwrap();
    assert!(spoiled(&welcome).iter().all(|message| ignored(&pair.at_acceptor(message))));
    event(pair.at_acceptor(&welcome));
}

#[test]
fn an_altered_proof_is_a_wrong_guess() {
    let length = linked().proof().len();
    for at in 81..length {
        let mut pair = linked();
        let mut proof = pair.proof();
        proof[at] ^= 1;
        assert_eq!(refused(pair.at_inviter(&proof)).0, LinkRefusal::WrongCode, "byte {at}");
    }
}

#[test]
fn a_share_that_the_hello_did_not_commit_to_is_no_guess_so_that_nobody_chooses_the_words() {
    let mut pair = linked();
    let proof = pair.proof();
    // Any other share, and a true one of another attempt.
    let (mut other, hello) = Acceptor::new(&CODE.parse().unwrap(), &pair.phone, "phone", WALL, &mut pair.rng).unwrap();
    let answer = reply(pair.at_inviter(&hello));
    let other = reply(other.handle(WALL, pair.laptop.id(), &answer));
    for share in [[9; 32], other[17..49].try_into().unwrap()] {
        let mut chosen = proof.clone();
        chosen[17..49].copy_from_slice(&share);
        assert!(ignored(&pair.at_inviter(&chosen)));
    }
    event(pair.at_inviter(&proof));
}

#[test]
fn no_proof_shows_the_share_that_the_next_inviter_is_given_so_that_who_answers_as_several_cannot_choose_the_words() {
    // The middle has overheard the code, and answers under one name after the other.
    let (mut pair, code) = (linked(), CODE.parse().unwrap());
    let mut shares = Vec::new();
    for seed in 7..10 {
        let middle = DeviceKey::from_seed(&[seed; 32]);
        let mut to_phone = Inviter::new(&code, &middle, WALL, &mut pair.rng);
        let answer = reply(to_phone.handle(WALL, pair.phone.id(), &pair.hello));
        let proof = reply(pair.acceptor.handle(WALL, middle.id(), &answer));
        assert_eq!(reply(pair.acceptor.handle(WALL, middle.id(), &answer)), proof, "the same again");
        assert!(shares.iter().all(|share| proof[17..49] != *share), "shown before this one answered");
        shares.push(proof[17..49].to_vec());
        // All were chosen before anybody answered: the acceptor cannot search either.
        event(to_phone.handle(WALL, pair.phone.id(), &proof));
    }
}

#[test]
fn nothing_that_travels_shows_words_name_or_content() {
    let mut pair = linked();
    let hello = pair.hello.clone();
    let (mut to_inviter, mut next, mut outcome) = (true, Some(hello), Outcome::default());
    while let Some(message) = next.take() {
        for hidden in [b"phone", &b"Alice"[..], b"agrees", b"secret", b"acid", b"actor"] {
            assert!(!message.windows(hidden.len()).any(|window| window == hidden));
        }
        next = pair.pass(to_inviter, &message, &mut outcome);
        to_inviter = !to_inviter;
    }
    assert!(outcome.is_right());
}

#[test]
fn each_call_has_its_time() {
    let mut pair = linked();
    assert_eq!((pair.inviter.offer(OFFER), pair.inviter.welcome(WELCOME), pair.acceptor.answer(WALL, CONSENT)), (None, None, None));
    let welcome = pair.welcome();
    assert_eq!((pair.inviter.offer(OFFER), pair.inviter.welcome(WELCOME), pair.acceptor.answer(WALL, CONSENT)), (None, None, None));
    event(pair.at_acceptor(&welcome));
    assert_eq!((pair.acceptor.answer(WALL, CONSENT), pair.acceptor.decline()), (None, None));
}

#[test]
fn debug_shows_no_word_and_no_secret() {
    let mut pair = linked();
    let consent = pair.consent();
    let answered = event(pair.at_inviter(&consent));
    let welcome = pair.inviter.welcome(WELCOME).unwrap();
    let done = pair.acceptor.handle(WALL, pair.laptop.id(), &welcome);
    let shown = format!("{:?} {:?} {answered:?} {done:?}", pair.inviter, pair.acceptor);
    assert!(!shown.contains("zebra") && !shown.contains("secret") && !shown.contains("115, 101, 99"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn devices_are_linked_however_messages_are_lost_repeated_and_reordered(faults in prop::collection::vec((0u8..5, any::<prop::sample::Index>()), 0..30)) {
        let mut pair = linked();
        let mut outcome = Outcome::default();
        // What is on its way, and what each side said last: who waits says it again.
        let mut flying = vec![(true, pair.hello.clone())];
        let mut said = [Some(pair.hello.clone()), None];
        let heal = std::iter::repeat_n((3, None), 24);
        for (fault, which) in faults.into_iter().map(|(fault, which)| (fault, Some(which))).chain(heal) {
            match fault {
                // One of those on their way, whichever: arrives, arrives and stays, is lost.
                0..=2 if !flying.is_empty() => {
                    let at = which.map_or(0, |which| which.index(flying.len()));
                    let (to_inviter, message) = if fault == 1 { flying[at].clone() } else { flying.remove(at) };
                    let next = if fault == 2 { None } else { pair.pass(to_inviter, &message, &mut outcome) };
                    if let Some(next) = next {
                        said[usize::from(to_inviter)] = Some(next.clone());
                        flying.push((!to_inviter, next));
                    }
                }
                // All in the order they were said in; then both say again what they said last.
                3 => {
                    for (to_inviter, message) in core::mem::take(&mut flying) {
                        if let Some(next) = pair.pass(to_inviter, &message, &mut outcome) {
                            said[usize::from(to_inviter)] = Some(next.clone());
                            flying.push((!to_inviter, next));
                        }
                    }
                    if which.is_none() && flying.is_empty() && !outcome.is_right() {
                        flying.extend(said.iter().zip([true, false]).filter_map(|(said, to)| said.clone().map(|said| (to, said))));
                    }
                }
                _ => flying.extend(said[0].clone().map(|said| (true, said))),
            }
        }
        prop_assert!(outcome.is_right(), "{:?}", outcome);
    }

    #[test]
    fn any_message_is_ignored_without_panic(kind in 0u8..9, tail in prop::collection::vec(any::<u8>(), 0..200), ours: bool, step in 0..4) {
        let mut pair = linked();
        let mut message = [&[kind][..], &tail].concat();
        if ours && message.len() >= 17 {
            message[1..17].copy_from_slice(&pair.hello[1..17]);
        }
        let from = DeviceKey::from_seed(&[9; 32]).id();
        let next = match step {
            0 => { pair.proof(); None }
            1 => Some(pair.offer().0),
            2 => Some(pair.consent()),
            _ => Some(pair.welcome()),
        };
        let _ = pair.inviter.handle(WALL, from, &message);
        let _ = pair.acceptor.handle(WALL, from, &message);
        // A stranger is in nobody's way.
        match next {
            Some(offer) if step == 1 => drop(event(pair.at_acceptor(&offer))),
            Some(consent) if step == 2 => drop(event(pair.at_inviter(&consent))),
            Some(welcome) => drop(event(pair.at_acceptor(&welcome))),
            None => {}
        }
    }

    #[test]
    fn any_bytes_of_the_partner_are_ignored_or_end_it_without_panic(kind in 0u8..9, tail in prop::collection::vec(any::<u8>(), 0..200), step in 0..3) {
        let mut pair = linked();
        match step {
            0 => drop(pair.proof()),
            1 => drop(pair.offer()),
            _ => drop(pair.consent()),
        }
        let message = [&[kind], &pair.hello[1..17], &tail].concat();
        prop_assert!(!matches!(pair.at_inviter(&message), LinkStep::Event(_)));
        prop_assert!(!matches!(pair.at_acceptor(&message), LinkStep::Event(_)));
    }

    #[test]
    fn any_bytes_decode_to_what_encodes_to_them_or_are_refused(kind in 0u8..9, tail in prop::collection::vec(any::<u8>(), 0..150)) {
        let bytes = [&[kind][..], &tail].concat();
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }
}

pub(crate) fn vector(ticket: &Ticket, laptop: &DeviceKey, phone: &DeviceKey) -> serde_json::Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut inviter = Inviter::new(ticket, laptop, WALL, &mut crate::vectors::Steps::new());
    let (mut acceptor, hello) = Acceptor::new(ticket, phone, "phone", WALL, &mut crate::vectors::Steps::new()).unwrap();
    let answer = reply(inviter.handle(WALL, phone.id(), &hello));
    let proof = reply(acceptor.handle(WALL, laptop.id(), &answer));
    let InviterEvent::Proven { words, .. } = event(inviter.handle(WALL, phone.id(), &proof)) else { panic!("proven") };
    let offer = inviter.offer(OFFER).unwrap();
    event(acceptor.handle(WALL, laptop.id(), &offer));
    let consent = acceptor.answer(WALL, CONSENT).unwrap();
    event(inviter.handle(WALL, phone.id(), &consent));
    let welcome = inviter.welcome(WELCOME).unwrap();
    event(acceptor.handle(WALL, laptop.id(), &welcome));
    serde_json::json!({
        "ticket": ticket.to_string(), "rendezvous_seed": hex(ticket.rendezvous().seed()), "password": hex(&ticket.password()),
        "acceptor_scalars": acceptor.scalars().map(|scalar| hex(scalar)).collect::<Vec<_>>(), "acceptor_name": "phone",
        "hello": hex(&hello), "answer": hex(&answer), "proof": hex(&proof),
        "offer": { "content": hex(OFFER), "message": hex(&offer) },
        "consent": { "content": hex(CONSENT), "message": hex(&consent) },
        "welcome": { "content": hex(WELCOME), "message": hex(&welcome) },
        "words": words,
    })
}
