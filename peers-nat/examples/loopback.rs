//! Two agents over real UDP on 127.0.0.1: one says hello, the other answers.

use std::error::Error;
use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use peers_crypto::DeviceKey;
use peers_nat::{Agent, Config, Event};
use peers_wire::Timestamp;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

/// A socket and the agent behind it.
struct Host {
    socket: UdpSocket,
    agent: Agent,
}

impl Host {
    fn new(now: Instant, number: u8) -> Result<Self, Box<dyn Error>> {
        // An example may be predictable; a program asks the system for its key and its seed.
        let mut rng = ChaCha20Rng::from_seed([number; 32]);
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        let config = Config { lan: false, auxiliary: false, ..Config::default() };
        let mut agent = Agent::new(now, config, DeviceKey::generate(&mut rng), [number; 32]);
        agent.set_local_addresses(now, &[socket.local_addr()?]);
        Ok(Self { socket, agent })
    }

    /// One turn of the loop: what came in, what is due, what is to be sent, what happened.
    fn turn(&mut self, now: Instant, wall: Timestamp) -> Result<Vec<Event>, Box<dyn Error>> {
        let mut buffer = [0; 1500];
        while let Ok((length, remote)) = self.socket.recv_from(&mut buffer) {
            self.agent.handle_datagram(now, wall, remote, Bytes::copy_from_slice(&buffer[..length]));
        }
        if self.agent.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.agent.handle_timeout(now, wall);
        }
        while let Some(transmit) = self.agent.poll_transmit() {
            self.socket.send_to(&transmit.payload, transmit.destination)?;
        }
        Ok(std::iter::from_fn(|| self.agent.poll_event()).collect())
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver is where the clocks are read")]
fn clocks() -> (Instant, Timestamp) {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |wall| wall.as_secs() * 1000);
    (Instant::now(), Timestamp(wall))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (start, wall) = clocks();
    let (mut alice, mut bob) = (Host::new(start, 1)?, Host::new(start, 2)?);
    alice.agent.connect(start, wall, bob.agent.id(), &[bob.socket.local_addr()?])?;
    loop {
        let (now, wall) = clocks();
        for event in alice.turn(now, wall)? {
            match event {
                Event::Connected { peer, .. } => alice.agent.send(now, peer, b"hello")?,
                Event::Data { data, .. } => {
                    assert_eq!(&data[..], b"hello yourself");
                    return Ok(());
                }
                _ => {}
            }
        }
        for event in bob.turn(now, wall)? {
            if let Event::Data { peer, data } = event {
                assert_eq!(&data[..], b"hello");
                bob.agent.send(now, peer, b"hello yourself")?;
            }
        }
        if now.duration_since(start) > Duration::from_secs(10) {
            return Err("nothing came".into());
        }
        std::thread::yield_now();
    }
}
