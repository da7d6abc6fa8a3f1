//! Mappers at a small router that speaks the protocols as the RFCs say, on virtual time.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::tests::epoch;

const GATEWAY: &str = "192.168.1.1:5351";
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// What a router speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Both,
    PcpAlone,
    /// And answers PCP as RFC 6886, section 3.5 asks.
    NatPmpAlone,
    /// And drops what it does not know.
    NatPmpMutely,
    Nothing,
}

/// A router: it keeps one mapping, and loses it when it begins anew.
struct Router {
    speaks: Speaks,
    began: Instant,
    external: SocketAddr,
    /// What it answers instead of mapping, if not 0.
    result: u8,
    lifetime: u32,
    mapped: Option<pcp::Nonce>,
    heard: Vec<Vec<u8>>,
}

impl Router {
    fn answer(&mut self, now: Instant, request: &[u8]) -> Option<Vec<u8>> {
        self.heard.push(request.to_vec());
        let clock = u32::try_from(now.duration_since(self.began).as_secs()).unwrap();
        let IpAddr::V4(ip) = self.external.ip() else { unreachable!() };
        match (request[0], self.speaks) {
            (2, Speaks::Both | Speaks::PcpAlone) => {
                assert_eq!((request.len(), request[1], request[36]), (60, 1, 17));
                assert_eq!(request[8..24], Ipv4Addr::new(192, 168, 1, 20).to_ipv6_mapped().octets());
                let nonce: pcp::Nonce = request[24..36].try_into().unwrap();
                let lifetime = u32::from_be_bytes(request[4..8].try_into().unwrap()).min(self.lifetime);
                self.mapped = (lifetime > 0 && self.result == 0).then_some(nonce);
                let mut answer = vec![2, 0x81, 0, self.result];
                answer.extend(lifetime.to_be_bytes());
                answer.extend(clock.to_be_bytes());
                answer.extend([0; 12]);
                answer.extend(&request[24..42]);
                answer.extend(self.external.port().to_be_bytes());
                answer.extend(ip.to_ipv6_mapped().octets());
                Some(answer)
            }
            (2, Speaks::NatPmpAlone) => Some([&[0, 129, 0, 1][..], &clock.to_be_bytes()].concat()),
            (0, Speaks::Both | Speaks::NatPmpAlone | Speaks::NatPmpMutely) => {
                let mut answer = vec![0, 128 + request[1], 0, self.result];
                answer.extend(clock.to_be_bytes());
                if request.len() == 2 {
                    answer.extend(ip.octets());
                } else {
                    let lifetime = u32::from_be_bytes(request[8..12].try_into().unwrap()).min(self.lifetime);
                    self.mapped = (lifetime > 0 && self.result == 0).then_some([0; 12]);
                    answer.extend(&request[4..6]);
                    answer.extend(if lifetime > 0 { self.external.port() } else { 0 }.to_be_bytes());
                    answer.extend(lifetime.to_be_bytes());
                }
                Some(answer)
            }
            // RFC 6887, section 9: what it speaks, and that it does not speak the other.
            (0, Speaks::PcpAlone) => Some([&[2, 0x81, 0, 1, 0, 0, 0, 30][..], &clock.to_be_bytes(), &[0; 12]].concat()),
            _ => None,
        }
    }

    /// Its announcement of having begun anew: RFC 6887, section 14.1.3.
    fn announcement(&self, now: Instant) -> Vec<u8> {
        let clock = u32::try_from(now.duration_since(self.began).as_secs()).unwrap();
        [&[2, 0x80, 0, 0, 0, 0, 0, 0][..], &clock.to_be_bytes(), &[0; 12]].concat()
    }

    /// The same of NAT-PMP: RFC 6886, section 3.2.1.
    fn address_announcement(&self, now: Instant) -> Vec<u8> {
        let clock = u32::try_from(now.duration_since(self.began).as_secs()).unwrap();
        let IpAddr::V4(ip) = self.external.ip() else { unreachable!() };
        [&[0, 128, 0, 0][..], &clock.to_be_bytes(), &ip.octets()].concat()
    }

    fn reboot(&mut self, now: Instant) {
        (self.began, self.mapped) = (now, None);
    }
}

/// A host and its router.
struct Lan {
    now: Instant,
    start: Instant,
    mapper: Mapper,
    router: Router,
    events: Vec<(Duration, Event)>,
    /// Of all datagrams to the router, the share that is lost.
    lose: fn(usize) -> bool,
}

impl Lan {
    fn new(speaks: Speaks) -> Self {
        let start = epoch() + Duration::from_secs(100_000);
        let router = Router {
            speaks,
            began: start - Duration::from_secs(5000),
            external: SocketAddr::from((OUTSIDE, 47474)),
            result: 0,
            lifetime: 3600,
            mapped: None,
            heard: Vec::new(),
        };
        let mapper = Mapper::new(start, network(), [7; 32], [8; 32]);
        Self { now: start, start, mapper, router, events: Vec::new(), lose: |_| false }
    }

    fn run(&mut self, seconds: u64) -> Vec<Event> {
        let end = self.now + Duration::from_secs(seconds);
        loop {
            while let Some(transmit) = self.mapper.poll_transmit() {
                if !(self.lose)(self.router.heard.len())
                    && let Some(answer) = self.router.answer(self.now, &transmit)
                {
                    self.mapper.handle_datagram(self.now, gateway(), &answer);
                }
            }
            while let Some(event) = self.mapper.poll_event() {
                self.events.push((self.now - self.start, event));
            }
            match self.mapper.poll_timeout().filter(|at| *at <= end) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            self.mapper.handle_timeout(self.now);
        }
        self.now = end;
        self.events.drain(..).map(|(_, event)| event).collect()
    }

    fn mapped(&self, protocol: Protocol) -> Event {
        Event::Mapped { external: self.router.external, protocol }
    }
}

fn gateway() -> SocketAddr {
    GATEWAY.parse().unwrap()
}

fn network() -> Network {
    Network { gateway: gateway(), client: "192.168.1.20".parse().unwrap(), port: 47474 }
}

#[test]
fn a_router_of_each_protocol_maps_the_port_and_deletes_it_when_released() {
    for (speaks, protocol, within) in [
        (Speaks::Both, Protocol::Pcp, 0),
        (Speaks::PcpAlone, Protocol::Pcp, 0),
        (Speaks::NatPmpAlone, Protocol::NatPmp, 0),
        (Speaks::NatPmpMutely, Protocol::NatPmp, 4),
    ] {
        let mut lan = Lan::new(speaks);
        assert_eq!(lan.run(within), [lan.mapped(protocol)], "{speaks:?}");
        assert!(lan.router.mapped.is_some());
        assert_eq!(lan.mapper.external(), Some(lan.router.external));
        lan.mapper.release(lan.now);
        assert_eq!(lan.run(0), [Event::Released]);
        assert_eq!(lan.router.mapped, None, "{speaks:?}");
        assert_eq!(lan.mapper.poll_timeout(), None);
    }
}

#[test]
fn a_router_of_pcp_alone_that_missed_the_first_request_is_asked_by_pcp_again() {
    let mut lan = Lan::new(Speaks::PcpAlone);
    lan.mapper.poll_transmit().unwrap();
    assert_eq!(lan.run(4), [lan.mapped(Protocol::Pcp)]);
    assert_eq!(lan.router.heard.iter().map(|request| request[0]).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn requests_of_natpmp_are_repeated_after_250_ms_and_then_after_twice_as_long() {
    let mut lan = Lan::new(Speaks::Nothing);
    let mut times = Vec::new();
    while !matches!(lan.mapper.poll_event(), Some(Event::Unavailable(Failure::Silent))) {
        while let Some(transmit) = lan.mapper.poll_transmit() {
            times.push((transmit.len(), lan.now - lan.start));
        }
        lan.now = lan.mapper.poll_timeout().unwrap();
        lan.mapper.handle_timeout(lan.now);
    }
    assert_eq!(times.iter().map(|(length, _)| *length).collect::<Vec<_>>(), [60, 2, 2, 2, 2]);
    let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1].1 - pair[0].1).as_millis()).collect();
    assert!((2700..=3300).contains(&gaps[0]), "RFC 6887: 3 s, give or take a tenth");
    assert_eq!(gaps[1..], [250, 500, 1000]);
    assert!(lan.now - lan.start < Duration::from_secs(8));
}

#[test]
fn a_silent_router_is_asked_again_at_growing_pauses() {
    let mut lan = Lan::new(Speaks::Nothing);
    let silent = Event::Unavailable(Failure::Silent);
    assert_eq!(lan.run(100), [silent]);
    assert_eq!(lan.run(3600), [silent; 4], "after 2, 4, 8, 16 minutes");
    let heard = lan.router.heard.len();
    lan.run(86_400);
    assert!(lan.router.heard.len() - heard < 150, "about once in 64 minutes");
    lan.router.speaks = Speaks::Both;
    assert_eq!(lan.run(3900), [lan.mapped(Protocol::Pcp)], "one that has learned it is found");
}

#[test]
fn a_port_at_which_nobody_listens_is_given_up_at_once() {
    let mut lan = Lan::new(Speaks::Nothing);
    lan.mapper.handle_unreachable(lan.now);
    assert_eq!(lan.run(1), [Event::Unavailable(Failure::Silent)]);
}

#[test]
fn a_mapping_is_renewed_between_half_and_five_eighths_of_its_lifetime() {
    for speaks in [Speaks::PcpAlone, Speaks::NatPmpAlone] {
        let mut lan = Lan::new(speaks);
        lan.run(1799);
        let heard = lan.router.heard.len();
        assert!(lan.run(2250 - 1799).is_empty());
        assert!(lan.router.heard.len() > heard, "{speaks:?}");
        assert_eq!(lan.mapper.stats().renewed, 1);
        assert!(lan.run(30 * 3600).is_empty(), "it stays as it is for days");
        assert!((48..=61).contains(&lan.mapper.stats().renewed));
    }
}

#[test]
fn renewals_that_are_lost_are_repeated_until_the_mapping_ends() {
    let mut lan = Lan::new(Speaks::PcpAlone);
    lan.run(0);
    let start = lan.now;
    lan.router.speaks = Speaks::Nothing;
    let mut times = Vec::new();
    while lan.mapper.poll_event().is_none() {
        while lan.mapper.poll_transmit().is_some() {
            times.push((lan.now - start).as_secs_f64() / 3600.0);
        }
        lan.now = lan.mapper.poll_timeout().unwrap();
        lan.mapper.handle_timeout(lan.now);
    }
    assert_eq!(lan.now - start, Duration::from_secs(3600), "then it is lost");
    for (index, time) in times.iter().enumerate().take(5) {
        let left = 0.5_f64.powi(i32::try_from(index).unwrap() + 1);
        assert!((1.0 - left..=1.0 - left * 0.75).contains(time), "renewal {index} at {time} of the lifetime");
    }
    assert!(times.windows(2).all(|pair| (pair[1] - pair[0]) * 3600.0 >= 3.999));
    assert!(times.len() < 14);
}

#[test]
fn a_router_that_announces_to_have_begun_anew_is_asked_at_once_and_the_mapping_stays() {
    for (speaks, protocol) in [(Speaks::PcpAlone, Protocol::Pcp), (Speaks::NatPmpAlone, Protocol::NatPmp)] {
        let mut lan = Lan::new(speaks);
        assert_eq!(lan.run(600), [lan.mapped(protocol)]);
        lan.router.reboot(lan.now);
        let announcement =
            if protocol == Protocol::Pcp { lan.router.announcement(lan.now) } else { lan.router.address_announcement(lan.now) };
        lan.mapper.handle_datagram(lan.now, gateway(), &announcement);
        assert!(lan.run(1).is_empty(), "the same address as before: nothing to say");
        assert!(lan.router.mapped.is_some());
        assert_eq!((lan.mapper.stats().resets, lan.mapper.stats().renewed), (1, 1));
    }
}

#[test]
fn an_announcement_that_changes_nothing_or_is_repeated_costs_nothing() {
    let mut lan = Lan::new(Speaks::PcpAlone);
    lan.run(600);
    let heard = lan.router.heard.len();
    for _ in 0..10 {
        let announcement = lan.router.announcement(lan.now);
        lan.mapper.handle_datagram(lan.now, gateway(), &announcement);
        lan.run(1);
    }
    assert_eq!(lan.router.heard.len(), heard);
    for _ in 0..10_000 {
        let forged = [&[2, 0x80, 0, 0, 0, 0, 0, 0][..], &[0; 16]].concat();
        lan.mapper.handle_datagram(lan.now, gateway(), &forged);
        lan.now += Duration::from_millis(1);
        lan.run(0);
    }
    assert!(lan.router.heard.len() - heard <= 4, "once in four seconds");
}

#[test]
fn another_address_at_renewal_replaces_the_one_before() {
    let mut lan = Lan::new(Speaks::Both);
    lan.run(0);
    lan.router.external = "198.51.100.9:1024".parse().unwrap();
    assert_eq!(lan.run(2300), [lan.mapped(Protocol::Pcp)]);
}

#[test]
fn an_announced_address_of_natpmp_replaces_the_one_before() {
    let mut lan = Lan::new(Speaks::NatPmpAlone);
    lan.run(60);
    lan.router.external = "198.51.100.9:1024".parse().unwrap();
    let announcement = lan.router.address_announcement(lan.now);
    lan.mapper.handle_datagram(lan.now, gateway(), &announcement);
    assert_eq!(lan.run(1), [lan.mapped(Protocol::NatPmp)]);
}

#[test]
fn a_refusal_is_told_and_asked_again_after_the_time_it_names_within_bounds() {
    for (lifetime, again) in [(0, 30), (120, 120), (1_000_000, 3600)] {
        let mut lan = Lan::new(Speaks::PcpAlone);
        (lan.router.result, lan.router.lifetime) = (2, lifetime);
        // The request names 3600 s; the router says for how long its error will last.
        let refused = Event::Unavailable(Failure::Refused { reason: "not authorized" });
        assert_eq!(lan.run(again - 1), [refused]);
        lan.router.result = 0;
        lan.router.lifetime = 3600;
        assert_eq!(lan.run(2), [lan.mapped(Protocol::Pcp)], "an error of {lifetime} s");
    }
}

#[test]
fn errors_of_natpmp_are_told_by_their_names() {
    for (result, reason, again) in [(2, "not authorized", 3600), (3, "network failure", 30), (4, "out of resources", 30)] {
        let mut lan = Lan::new(Speaks::NatPmpAlone);
        lan.router.result = result;
        assert_eq!(lan.run(again - 1), [Event::Unavailable(Failure::Refused { reason })]);
        lan.router.result = 0;
        assert_eq!(lan.run(2), [lan.mapped(Protocol::NatPmp)]);
    }
}

#[test]
fn a_renewal_that_is_refused_leaves_the_mapping_until_it_ends() {
    let mut lan = Lan::new(Speaks::PcpAlone);
    lan.run(0);
    lan.router.result = 8;
    assert!(lan.run(3599).is_empty());
    assert_eq!(lan.run(1), [Event::Lost, Event::Unavailable(Failure::Refused { reason: "no resources" })]);
}

#[test]
fn offers_that_nobody_can_use_are_refused() {
    for (external, lifetime) in
        [("0.0.0.0:5", 3600), ("203.0.113.7:0", 3600), ("127.0.0.1:5", 3600), ("224.0.0.1:5", 3600), ("203.0.113.7:5", 1)]
    {
        for speaks in [Speaks::PcpAlone, Speaks::NatPmpAlone] {
            let mut lan = Lan::new(speaks);
            (lan.router.external, lan.router.lifetime) = (external.parse().unwrap(), lifetime);
            let events = lan.run(1);
            assert!(matches!(events[..], [Event::Unavailable(Failure::Unusable { .. })]), "{external} {lifetime} {events:?}");
        }
    }
}

#[test]
fn a_private_address_behind_a_second_router_is_told() {
    let mut lan = Lan::new(Speaks::Both);
    lan.router.external = "100.64.3.4:47474".parse().unwrap();
    assert_eq!(lan.run(0), [lan.mapped(Protocol::Pcp)]);
}

#[test]
fn a_mapping_that_ended_while_the_host_slept_is_made_again() {
    let mut lan = Lan::new(Speaks::Both);
    lan.run(0);
    lan.now += Duration::from_secs(10_000);
    lan.mapper.handle_timeout(lan.now);
    assert_eq!(lan.run(0), [Event::Lost, lan.mapped(Protocol::Pcp)]);
}

#[test]
fn a_host_that_begins_anew_finds_the_mapping_it_left_and_other_networks_get_other_nonces() {
    let first = Mapper::new(epoch(), network(), [7; 32], [1; 32]);
    let again = Mapper::new(epoch(), network(), [7; 32], [2; 32]);
    assert_eq!(first.nonce, again.nonce);
    let elsewhere = Network { client: "192.168.1.21".parse().unwrap(), ..network() };
    assert_ne!(first.nonce, Mapper::new(epoch(), elsewhere, [7; 32], [1; 32]).nonce);
    assert_ne!(first.nonce, Mapper::new(epoch(), network(), [8; 32], [1; 32]).nonce);
}

#[test]
fn releasing_ends_without_an_answer_and_where_there_is_nothing_to_release() {
    let mut lan = Lan::new(Speaks::Both);
    lan.run(0);
    lan.router.speaks = Speaks::Nothing;
    let heard = lan.router.heard.len();
    lan.mapper.release(lan.now);
    assert_eq!(lan.run(2), [Event::Released]);
    assert_eq!(lan.router.heard.len() - heard, 3);
    lan.mapper.release(lan.now);
    assert_eq!(lan.run(0), [Event::Released]);
    assert_eq!(lan.router.heard.len() - heard, 3);
}

#[test]
fn answers_of_others_and_of_other_mappings_are_dropped_and_counted() {
    let mut lan = Lan::new(Speaks::Both);
    let request = lan.mapper.poll_transmit().unwrap();
    let answer = lan.router.answer(lan.now, &request).unwrap();
    for stranger in ["192.168.1.66:5351", "192.168.1.1:5350", "[fe80::1]:5351"] {
        lan.mapper.handle_datagram(lan.now, stranger.parse().unwrap(), &answer);
    }
    assert_eq!(lan.mapper.stats().dropped_foreign, 3);
    for byte in [24, 35, 40] {
        let mut other = answer.clone();
        other[byte] ^= 1;
        lan.mapper.handle_datagram(lan.now, gateway(), &other);
    }
    // An answer of NAT-PMP that nobody asked for.
    lan.mapper.handle_datagram(lan.now, gateway(), &[0, 129, 0, 0, 0, 0, 0, 9, 0xb9, 0x72, 0xb9, 0x72, 0, 0, 0x0e, 0x10]);
    assert_eq!(lan.mapper.stats().dropped_unexpected, 4);
    lan.mapper.handle_datagram(lan.now, gateway(), &answer[..40]);
    lan.mapper.handle_datagram(lan.now, gateway(), b"");
    assert_eq!(lan.mapper.stats().dropped_malformed, 2);
    assert_eq!(lan.mapper.poll_event(), None);
    lan.mapper.handle_datagram(lan.now, gateway(), &answer);
    lan.mapper.handle_datagram(lan.now, gateway(), &answer);
    assert_eq!(lan.run(0), [lan.mapped(Protocol::Pcp)]);
    assert_eq!(lan.mapper.stats().dropped_unexpected, 5, "a copy");
}

#[test]
fn a_router_that_sends_us_from_one_protocol_to_the_other_is_followed_twice() {
    let mut mapper = Mapper::new(epoch(), network(), [7; 32], [8; 32]);
    for _ in 0..100 {
        mapper.handle_datagram(epoch(), gateway(), &[0, 129, 0, 1, 0, 0, 0, 5]);
        mapper.handle_datagram(epoch(), gateway(), &[[2, 0x81, 0, 1].as_slice(), &[0; 20]].concat());
    }
    assert_eq!(std::iter::from_fn(|| mapper.poll_transmit()).count(), 3);
}

#[test]
fn a_pinhole_for_ipv6_is_asked_by_pcp_alone() {
    let (gateway, client) = ("[fe80::1%3]:5351".parse().unwrap(), "2001:db8::7".parse().unwrap());
    let mut now = epoch();
    let mut mapper = Mapper::new(now, Network { gateway, client, port: 47474 }, [7; 32], [8; 32]);
    let mut sent = Vec::new();
    while mapper.poll_event().is_none() {
        sent.extend(std::iter::from_fn(|| mapper.poll_transmit()));
        now = mapper.poll_timeout().unwrap();
        mapper.handle_timeout(now);
    }
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|transmit| transmit[0] == 2));
}

/// What may happen to a mapper.
#[derive(Debug, Clone)]
enum Input {
    Datagram(Vec<u8>),
    /// As a router that speaks would answer the request before, with some bytes changed.
    Answer(Vec<(usize, u8)>),
    Wait(u32),
    Unreachable,
    Release,
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let begin = prop_oneof![Just(vec![2, 0x80, 0, 0]), Just(vec![2, 0x81, 0, 1]), Just(vec![0, 128, 0, 0]), Just(vec![0, 129, 0, 0])];
    let datagram = (begin, proptest::collection::vec(any::<u8>(), 0..60)).prop_map(|(begin, rest)| Input::Datagram([begin, rest].concat()));
    let answer = proptest::collection::vec((0..60_usize, any::<u8>()), 0..3).prop_map(Input::Answer);
    let input = prop_oneof![3 => datagram, 6 => answer, 4 => (0..4000_u32).prop_map(Input::Wait), 1 => Just(Input::Unreachable), 1 => Just(Input::Release)];
    proptest::collection::vec(input, 1..60)
}

proptest! {
    #[test]
    fn whatever_a_router_says_events_make_sense_and_no_answer_leads_to_more_than_one_request(script in inputs(), speaks in 0..3) {
        let mut lan = Lan::new([Speaks::Both, Speaks::PcpAlone, Speaks::NatPmpAlone][usize::try_from(speaks).unwrap()]);
        let (mut held, mut last) = (None, lan.mapper.poll_transmit().unwrap().to_vec());
        for input in script {
            let mut timeouts = 0;
            match input {
                Input::Datagram(datagram) => lan.mapper.handle_datagram(lan.now, gateway(), &datagram),
                Input::Answer(changes) => {
                    if let Some(mut answer) = lan.router.answer(lan.now, &last) {
                        for (index, byte) in changes {
                            if let Some(place) = answer.get_mut(index) {
                                *place = byte;
                            }
                        }
                        lan.mapper.handle_datagram(lan.now, gateway(), &answer);
                    }
                }
                Input::Wait(seconds) => {
                    lan.now += Duration::from_secs(seconds.into());
                    while lan.mapper.poll_timeout().is_some_and(|at| at <= lan.now) {
                        lan.mapper.handle_timeout(lan.now);
                        timeouts += 1;
                        prop_assert!(timeouts < 4, "it does not run in circles");
                    }
                }
                Input::Unreachable => lan.mapper.handle_unreachable(lan.now),
                Input::Release => lan.mapper.release(lan.now),
            }
            let requests: Vec<_> = std::iter::from_fn(|| lan.mapper.poll_transmit()).collect();
            prop_assert!(requests.len() <= 1.max(timeouts));
            if let Some(request) = requests.last() {
                prop_assert!(request.len() <= 60);
                last = request.to_vec();
            }
            while let Some(event) = lan.mapper.poll_event() {
                match event {
                    Event::Mapped { external, .. } => {
                        prop_assert!(held != Some(external));
                        held = Some(external);
                    }
                    Event::Lost => prop_assert!(held.take().is_some()),
                    Event::Unavailable(_) => prop_assert_eq!(held, None),
                    Event::Released => held = None,
                }
            }
            if held.is_some() {
                prop_assert!(lan.mapper.external() == held || lan.mapper.external().is_none());
            }
        }
    }
}
