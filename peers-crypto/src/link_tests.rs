use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;

const WALL: Timestamp = Timestamp(1_700_000_000_000);
const SECRET: [u8; 32] = [0x5e; 32];

struct Linking {
    laptop: DeviceKey,
    phone: DeviceKey,
    user: User,
    inviter: Inviter,
    acceptor: Acceptor,
    hello: Vec<u8>,
    rng: ChaCha20Rng,
}

fn linking(shown: &str, typed: &str) -> Linking {
    let [laptop, phone] = [1, 2].map(|seed| DeviceKey::from_seed(&[seed; 32]));
    let mut rng = ChaCha20Rng::seed_from_u64(6);
    let user = User::create(&laptop, "Alice", "laptop", WALL).unwrap();
    let inviter = Inviter::new(&shown.parse().unwrap(), &laptop, WALL, &mut rng);
    let (acceptor, hello) = Acceptor::new(&typed.parse().unwrap(), &phone, "phone", WALL, &mut rng).unwrap();
    Linking { laptop, phone, user, inviter, acceptor, hello, rng }
}

fn code() -> Linking {
    linking("zoo acid actor zebra", "zoo acid actor zebra")
}

fn reply<T: fmt::Debug>(step: LinkStep<T>) -> Vec<u8> {
    match step {
        LinkStep::Reply(message) => message,
        other => panic!("a reply, not {other:?}"),
    }
}

fn done<T: fmt::Debug>(step: LinkStep<T>) -> T {
    match step {
        LinkStep::Done(result) => result,
        other => panic!("done, not {other:?}"),
    }
}

fn refused<T: fmt::Debug>(step: LinkStep<T>) -> (LinkRefusal, Option<Vec<u8>>) {
    match step {
        LinkStep::Refused { reason, reply } => (reason, reply),
        other => panic!("refused, not {other:?}"),
    }
}

fn ignored<T>(step: &LinkStep<T>) -> bool {
    matches!(step, LinkStep::Ignore)
}

impl Linking {
    fn proof(&mut self) -> Vec<u8> {
        let answer = reply(self.inviter.handle(WALL, self.phone.id(), &self.hello));
        reply(self.acceptor.handle(WALL, self.laptop.id(), &answer))
    }

    fn finish(&mut self) -> Welcome {
        let proof = self.proof();
        let newcomer = done(self.inviter.handle(WALL, self.phone.id(), &proof));
        assert_eq!((newcomer.device, &*newcomer.name), (self.phone.id(), "phone"));
        let welcome = newcomer.welcome(&self.laptop, &mut self.user, &SECRET, WALL).unwrap();
        let welcomed = done(self.acceptor.handle(WALL, self.laptop.id(), &welcome));
        assert_eq!(welcomed.words, newcomer.words);
        assert_eq!(welcomed.words.split(' ').count(), 3);
        welcomed
    }
}

#[test]
fn a_phone_is_linked_and_both_are_the_same_user() {
    let mut linking = code();
    let welcome = linking.finish();
    assert_eq!((welcome.inviter, *welcome.secret), (linking.laptop.id(), SECRET));
    assert_eq!(welcome.user, linking.user);
    assert_eq!(welcome.user.name_of(linking.phone.id()), Some("phone"));
    assert!(ignored(&linking.inviter.handle(WALL, linking.phone.id(), &linking.hello)), "an invitation serves once");
}

#[test]
fn a_device_of_the_longest_name_is_linked() {
    let mut linking = code();
    let name = "n".repeat(crate::MAX_NAME);
    let code = "zoo acid actor zebra".parse().unwrap();
    (linking.acceptor, linking.hello) = Acceptor::new(&code, &linking.phone, &name, WALL, &mut linking.rng).unwrap();
    let proof = linking.proof();
    assert_eq!(done(linking.inviter.handle(WALL, linking.phone.id(), &proof)).name, name);
    assert_eq!(Acceptor::new(&code, &linking.phone, "", WALL, &mut linking.rng).err(), Some(UserError::Name));
}

#[test]
fn a_wrong_code_ends_the_invitation_and_both_learn_it() {
    let mut linking = linking("zoo acid actor zebra", "zoo acid actor zero");
    let proof = linking.proof();
    let (reason, refusal) = refused(linking.inviter.handle(WALL, linking.phone.id(), &proof));
    assert_eq!(reason, LinkRefusal::WrongCode);
    assert_eq!(refused(linking.acceptor.handle(WALL, linking.laptop.id(), &refusal.unwrap())).0, LinkRefusal::WrongCode);
    // A second guess, now with the right words, comes too late.
    let right = "zoo acid actor zebra".parse().unwrap();
    let (_, hello) = Acceptor::new(&right, &linking.phone, "phone", WALL, &mut linking.rng).unwrap();
    assert!(ignored(&linking.inviter.handle(WALL, linking.phone.id(), &hello)));
    assert!(ignored(&linking.inviter.handle(WALL, linking.phone.id(), &proof)));
}

#[test]
fn an_invitation_expires_after_ten_minutes() {
    let mut linking = code();
    let late = WALL.plus(INVITATION_LIFETIME);
    assert_eq!((linking.inviter.expires(), linking.acceptor.expires()), (late, late));
    let proof = linking.proof();
    assert_eq!(refused(linking.inviter.handle(late, linking.phone.id(), &proof)), (LinkRefusal::Expired, None));
    assert_eq!(refused(linking.acceptor.handle(late, linking.laptop.id(), b"")), (LinkRefusal::Expired, None));
    assert!(ignored(&linking.inviter.handle(WALL, linking.phone.id(), &proof)), "over is over");
}

#[test]
fn messages_of_strangers_do_not_end_the_invitation() {
    let mut linking = code();
    let stranger = DeviceKey::from_seed(&[9; 32]);
    let other_words = "zoo zebra zebra zebra".parse().unwrap();
    let (mut other_acceptor, other_hello) = Acceptor::new(&other_words, &stranger, "x", WALL, &mut linking.rng).unwrap();
    let mut other_inviter = Inviter::new(&other_words, &stranger, WALL, &mut linking.rng);
    // Another pair with the same first word: hellos are answered by both inviters, and nobody is harmed by a share.
    let ours_to_other = reply(linking.inviter.handle(WALL, stranger.id(), &other_hello));
    let others_to_ours = reply(other_inviter.handle(WALL, linking.phone.id(), &linking.hello));
    assert!(ignored(&linking.acceptor.handle(WALL, linking.laptop.id(), &ours_to_other)), "for another session");
    // The stranger answers first: our acceptor tries its code there, and the stranger refuses; then ours answers.
    let misdirected = reply(linking.acceptor.handle(WALL, stranger.id(), &others_to_ours));
    let (_, refusal) = refused(other_inviter.handle(WALL, linking.phone.id(), &misdirected));
    assert!(ignored(&linking.inviter.handle(WALL, linking.phone.id(), &misdirected)), "a proof for another inviter is no guess here");
    let answer = reply(linking.inviter.handle(WALL, linking.phone.id(), &linking.hello));
    let proof = reply(linking.acceptor.handle(WALL, linking.laptop.id(), &answer));
    assert!(ignored(&linking.acceptor.handle(WALL, stranger.id(), &refusal.unwrap())), "ours has not refused");
    for garbage in [&b""[..], b"\x01", &[3; 200], &[4; 90], &[2; 49], &[5; 17]] {
        assert!(ignored(&linking.inviter.handle(WALL, stranger.id(), garbage)));
        assert!(ignored(&linking.acceptor.handle(WALL, stranger.id(), garbage)));
        assert!(ignored(&other_acceptor.handle(WALL, stranger.id(), garbage)));
    }
    let newcomer = done(linking.inviter.handle(WALL, linking.phone.id(), &proof));
    let welcome = newcomer.welcome(&linking.laptop, &mut linking.user, &SECRET, WALL).unwrap();
    assert!(ignored(&linking.acceptor.handle(WALL, stranger.id(), &welcome)), "replayed by a stranger");
    done(linking.acceptor.handle(WALL, linking.laptop.id(), &welcome));
}

#[test]
fn a_flood_of_hellos_is_answered_up_to_a_bound() {
    let mut linking = code();
    let answered =
        (0..2 * MAX_ANSWERED_HELLOS).filter(|_| !ignored(&linking.inviter.handle(WALL, linking.phone.id(), &linking.hello))).count();
    assert_eq!(answered, MAX_ANSWERED_HELLOS);
    let inviters = (10..30).map(|seed| DeviceKey::from_seed(&[seed; 32]).id());
    let answer = Message::Answer { session: linking.acceptor.session, share: linking.acceptor.share }.encode();
    let tried = inviters.filter(|inviter| !ignored(&linking.acceptor.handle(WALL, *inviter, &answer))).count();
    assert_eq!(tried, MAX_TRIED_INVITERS);
}

#[test]
fn who_carries_the_messages_learns_nothing_and_cannot_put_itself_between() {
    let mut linking = code();
    let middle = DeviceKey::from_seed(&[9; 32]);
    // Messages passed on under the middle's own name give other keys, as the names are part of them.
    let answer = reply(linking.inviter.handle(WALL, middle.id(), &linking.hello));
    let proof = reply(linking.acceptor.handle(WALL, middle.id(), &answer));
    let mut to_inviter = proof.clone();
    to_inviter[49..81].copy_from_slice(&linking.laptop.id().0);
    assert_eq!(refused(linking.inviter.handle(WALL, middle.id(), &to_inviter)).0, LinkRefusal::WrongCode);
    // Nothing that travels shows the words, the secret or the name.
    let mut linking = code();
    let proof = linking.proof();
    let newcomer = done(linking.inviter.handle(WALL, linking.phone.id(), &proof));
    let welcome = newcomer.welcome(&linking.laptop, &mut linking.user, &SECRET, WALL).unwrap();
    for message in [&linking.hello, &proof, &welcome] {
        for hidden in [&SECRET[..], b"phone", b"Alice", b"acid", b"actor"] {
            assert!(!message.windows(hidden.len()).any(|window| window == hidden));
        }
    }
}

#[test]
fn an_altered_proof_is_a_wrong_guess_and_an_altered_welcome_is_ignored() {
    let mut linking = code();
    let proof = linking.proof();
    for at in 81..proof.len() {
        let mut altered = proof.clone();
        altered[at] ^= 1;
        let mut inviter = Inviter { words: linking.inviter.words.clone(), seed: linking.inviter.seed.clone(), ..linking.inviter };
        assert_eq!(refused(inviter.handle(WALL, linking.phone.id(), &altered)).0, LinkRefusal::WrongCode, "byte {at}");
    }
    let newcomer = done(linking.inviter.handle(WALL, linking.phone.id(), &proof));
    let welcome = newcomer.welcome(&linking.laptop, &mut linking.user, &SECRET, WALL).unwrap();
    for at in 0..welcome.len() {
        let mut altered = welcome.clone();
        altered[at] ^= 1;
        assert!(ignored(&linking.acceptor.handle(WALL, linking.laptop.id(), &altered)), "byte {at}");
        assert!(ignored(&linking.acceptor.handle(WALL, linking.laptop.id(), &welcome[..at])));
    }
    done(linking.acceptor.handle(WALL, linking.laptop.id(), &welcome));
}

#[test]
fn an_inviter_that_leaves_the_acceptor_out_of_the_user_is_refused() {
    let mut linking = code();
    let proof = linking.proof();
    let newcomer = done(linking.inviter.handle(WALL, linking.phone.id(), &proof));
    let inner = [&SECRET[..], &linking.user.encode()].concat();
    let sealed = newcomer.keys.seal("welcome", &inner);
    let welcome = Message::Welcome { session: newcomer.session, tag: *newcomer.keys.tag("welcome"), sealed: &sealed }.encode();
    let (reason, _) = refused(linking.acceptor.handle(WALL, linking.laptop.id(), &welcome));
    assert_eq!(reason, LinkRefusal::Invalid(UserError::NotADevice(linking.phone.id())));
}

#[test]
fn a_revoked_device_is_not_welcomed_again_and_a_present_one_is() {
    let mut first = code();
    first.finish();
    let mut again = code();
    again.user = first.user.clone();
    assert_eq!(again.finish().user, first.user, "linked twice is linked once");
    first.user.revoke_device(&first.laptop, first.phone.id(), 0, WALL).unwrap();
    let mut again = code();
    let proof = again.proof();
    let newcomer = done(again.inviter.handle(WALL, again.phone.id(), &proof));
    let refused = newcomer.welcome(&again.laptop, &mut first.user, &SECRET, WALL);
    assert_eq!(refused, Err(UserError::Known(again.phone.id())));
}

#[test]
fn debug_shows_no_word_and_no_secret() {
    let mut linking = code();
    let mut shown = format!("{:?} {:?}", linking.inviter, linking.acceptor);
    shown += &format!("{:?}", linking.finish());
    assert!(!shown.contains("zebra") && !shown.contains("94") && !shown.contains("5e5e"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_message_is_ignored_without_panic(kind in 0u8..7, tail in prop::collection::vec(any::<u8>(), 0..200), ours: bool) {
        let mut linking = code();
        let mut message = [&[kind][..], &tail].concat();
        if ours && message.len() >= 17 {
            message[1..17].copy_from_slice(&linking.acceptor.session);
        }
        let from = DeviceKey::from_seed(&[9; 32]).id();
        let _ = linking.inviter.handle(WALL, from, &message);
        let _ = linking.acceptor.handle(WALL, from, &message);
        linking.finish();
    }
}

pub(crate) fn vector() -> serde_json::Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let [laptop, phone] = [1, 2].map(|seed| DeviceKey::from_seed(&[seed; 32]));
    let code = "zoo acid actor zebra".parse().unwrap();
    let mut user = User::create(&laptop, "Alice", "laptop", WALL).unwrap();
    let mut inviter = Inviter::new(&code, &laptop, WALL, &mut crate::vectors::Steps::new());
    let (mut acceptor, hello) = Acceptor::new(&code, &phone, "phone", WALL, &mut crate::vectors::Steps::new()).unwrap();
    let answer = reply(inviter.handle(WALL, phone.id(), &hello));
    let proof = reply(acceptor.handle(WALL, laptop.id(), &answer));
    let newcomer = done(inviter.handle(WALL, phone.id(), &proof));
    let welcome = newcomer.welcome(&laptop, &mut user, &SECRET, WALL).unwrap();
    let scalar = hex(&*acceptor.scalar);
    let welcomed = done(acceptor.handle(WALL, laptop.id(), &welcome));
    serde_json::json!({
        "code": "zoo acid actor zebra", "inviter_seed": hex(&[1; 32]), "acceptor_seed": hex(&[2; 32]), "acceptor_name": "phone", "time": WALL.0,
        "user_secret": hex(&SECRET), "acceptor_scalar": scalar,
        "hello": hex(&hello), "answer": hex(&answer), "proof": hex(&proof), "welcome": hex(&welcome), "words": welcomed.words,
    })
}
