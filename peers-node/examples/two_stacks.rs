//! Two nodes without sockets, clocks or threads: the main loop of a driver or a simulator.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use peers_crypto::{DeviceKey, TopicKey};
use peers_node::{Account, Config, Event, Stack};
use peers_wire::Timestamp;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

const WALL: Timestamp = Timestamp(1_800_000_000_000);

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn main() {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere; from here on it is an argument")]
    let start = Instant::now();
    let addresses: [SocketAddr; 2] = [([11, 0, 0, 1], 1).into(), ([11, 0, 0, 2], 1).into()];
    let mut stacks = [1u8, 2].map(|seed| {
        let key = DeviceKey::from_seed(&[seed; 32]);
        let account = Account::create(WALL, &key, "example", &mut ChaCha20Rng::from_seed([seed; 32])).expect("a valid name");
        Stack::new(start, WALL, Config::default(), key, account, [seed; 32])
    });

    let topic = TopicKey::from_passphrase("greetings");
    stacks[0].set_local_addresses(start, WALL, &addresses[..1]);
    stacks[1].set_local_addresses(start, WALL, &addresses[1..]);
    stacks[1].subscribe(start, WALL, topic.read_key());
    let other = stacks[1].id();
    stacks[0].connect(start, WALL, other, &addresses[1..]).expect("the first peer sought");
    stacks[0].publish(start, WALL, &topic, b"hello, world").expect("short enough");

    let mut now = start;
    while now < start + Duration::from_secs(5) {
        let wall = WALL.plus(u64::try_from((now - start).as_millis()).expect("five seconds"));
        let mut quiet = true;
        for from in 0..2 {
            while let Some(transmit) = stacks[from].poll_transmit() {
                quiet = false;
                if let Some(to) = addresses.iter().position(|address| *address == transmit.destination) {
                    stacks[to].handle_datagram(now, wall, addresses[from], transmit.payload);
                }
            }
            while let Some(event) = stacks[from].poll_event() {
                match event {
                    Event::Message(message) => {
                        println!("node {from} hears {:?} from {:.8}", message.payload, message.author);
                        return;
                    }
                    Event::Connected { peer, path } => println!("node {from} is connected to {peer:.8}: {path:?}"),
                    _ => {}
                }
            }
        }
        // Nothing on its way: time passes until someone wants to be woken.
        if quiet {
            now =
                stacks.iter().filter_map(Stack::poll_timeout).min().expect("a node always has a timer").max(now + Duration::from_millis(1));
            for stack in &mut stacks {
                stack.handle_timeout(now, wall);
            }
        }
    }
    unreachable!("the message arrives within five seconds");
}
