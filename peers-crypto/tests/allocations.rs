//! What a session's datagrams cost in memory, by an allocator that counts.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait: this one counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use peers_crypto::{DeviceKey, Initiator, MAX_DATAGRAM, MAX_PLAINTEXT, Response, Session, respond};
use peers_wire::Timestamp;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often memory was asked for meanwhile.
fn allocations(operation: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    operation();
    ALLOCATIONS.with(Cell::get) - before
}

fn session() -> (Session, Session) {
    let (alice, bob, mut rng) = (DeviceKey::from_seed(&[1; 32]), DeviceKey::from_seed(&[2; 32]), ChaCha20Rng::seed_from_u64(1));
    let (mut waiting, first) = Initiator::ik(&alice, bob.id(), 1, Timestamp(1), &[], &mut rng).expect("a valid key");
    let Ok(Response::Ik { session, reply, .. }) = respond(&bob, &first, 2, &[], &mut rng) else { panic!("IK") };
    (waiting.finish(&alice, &reply).expect("a valid answer").session, session)
}

#[test]
fn sealing_and_opening_in_place_allocate_nothing() {
    let (mut sending, mut receiving) = session();
    let mut buffer = Vec::with_capacity(MAX_DATAGRAM);
    // 1162 bytes go under ChaCha20-Poly1305 whatever cipher was agreed on.
    for length in [0, 1, 1024, MAX_PLAINTEXT] {
        let plaintext = [7; MAX_PLAINTEXT];
        let count = allocations(|| {
            for _ in 0..100 {
                buffer.clear();
                sending.seal(&plaintext[..length], &mut buffer);
                let mut again = [0; MAX_DATAGRAM];
                again[..buffer.len()].copy_from_slice(&buffer);
                assert_eq!(receiving.open_in_place(&mut buffer).unwrap(), &plaintext[..length]);
                assert!(receiving.open_in_place(&mut again[..buffer.len()]).is_err(), "a replay");
                again[20 % buffer.len()] ^= 1;
                again[12] ^= 0x40;
                assert!(receiving.open_in_place(&mut again[..buffer.len()]).is_err(), "a forgery");
            }
        });
        assert_eq!(count, 0, "{length} bytes, {:?}", sending.cipher());
    }
}

#[test]
fn opening_a_datagram_allocates_at_most_once_whether_its_buffer_is_shared_or_not() {
    let (mut sending, mut receiving) = session();
    let mut sealed = || {
        let mut datagram = Vec::new();
        sending.seal(&[7; 1024], &mut datagram);
        Bytes::from(datagram)
    };
    let (alone, shared) = (sealed(), sealed());
    let keep = shared.clone();
    for datagram in [alone, shared] {
        assert!(allocations(|| assert_eq!(receiving.open(datagram).unwrap(), [7; 1024][..])) <= 1);
    }
    assert_ne!(keep.slice(13..), [7; 1024][..]);
}
