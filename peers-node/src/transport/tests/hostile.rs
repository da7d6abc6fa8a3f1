//! A peer that holds a session and does not keep to the protocol.

use super::*;

/// Gives `transport` one packet with `frames` in it.
fn give(transport: &mut Transport, number: u64, frames: impl FnOnce(&mut Writer)) {
    let mut packet = Writer::default();
    packet.varint(number);
    frames(&mut packet);
    transport.handle_frames(origin(), packet.as_ref());
}

fn data(lane: Lane, offset: u64, bytes: &[u8]) -> impl FnOnce(&mut Writer) {
    move |out| {
        frames::write_data_header(out, lane, offset, bytes.len());
        out.bytes(bytes);
    }
}

fn ack(range: std::ops::Range<u64>) -> impl FnOnce(&mut Writer) {
    move |out| {
        let mut received = ranges::Ranges::default();
        received.insert(range);
        frames::write_ack(out, &received, Duration::ZERO);
    }
}

fn victim() -> Transport {
    Transport::new(origin(), Config::default(), [1; 32])
}

fn transmit(transport: &mut Transport) -> u64 {
    let mut count = 0;
    while transport.poll_transmit(origin(), &mut Writer::default()) {
        count += 1;
    }
    count
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_refused() {
    let mut transport = victim();
    transport.send(Lane::Bulk, message(100_000, 1)).unwrap();
    let sent = transmit(&mut transport);
    let before = transport.stats();
    give(&mut transport, 0, ack(0..sent + 1));
    give(&mut transport, 1, ack(1 << 60..1 << 61));
    let stats = transport.stats();
    assert_eq!((stats.dropped_unsent_acks, stats.in_flight, stats.window), (2, before.in_flight, before.window));
    give(&mut transport, 2, ack(0..sent));
    assert_eq!(transport.stats().in_flight, 0);
}

#[test]
fn who_acknowledges_blindly_hits_a_number_left_out() {
    let mut transport = victim();
    let (mut now, mut caught) = (origin(), false);
    for number in 0..400u64 {
        transport.send(Lane::Bulk, message(10, 1)).unwrap();
        now += Duration::from_secs(1);
        while transport.poll_transmit(now, &mut Writer::default()) {}
        let mut packet = Writer::default();
        packet.varint(number);
        ack(0..number + 1)(&mut packet);
        transport.handle_frames(now, packet.as_ref());
        caught |= transport.stats().dropped_unsent_acks > 0;
    }
    assert!(caught);
}

#[test]
fn what_arrived_first_is_what_counts() {
    let mut transport = victim();
    give(&mut transport, 0, data(Lane::Control, 6, b"cdef"));
    give(&mut transport, 1, data(Lane::Control, 4, b"abXX"));
    give(&mut transport, 2, data(Lane::Control, 8, b"YYgh"));
    give(&mut transport, 3, data(Lane::Control, 0, &[0, 0, 0, 8, b'Z', b'Z']));
    let expected = Event::Message { lane: Lane::Control, message: "abcdefgh".into() };
    assert_eq!(transport.poll_event(), Some(expected));
}

#[test]
fn data_beyond_the_credit_is_neither_kept_nor_acknowledged() {
    let mut transport = victim();
    for (number, offset) in [256 << 10, 1 << 40, (1 << 62) - 1].into_iter().enumerate() {
        give(&mut transport, number as u64, data(Lane::Control, offset, b"far"));
    }
    let stats = transport.stats();
    assert_eq!((stats.dropped_beyond_credit, stats.held, transmit(&mut transport)), (3, 0, 0));
}

#[test]
fn crumbs_out_of_order_are_bounded_in_number() {
    let mut transport = victim();
    for number in 0..10_000 {
        give(&mut transport, number, data(Lane::Bulk, 1 + 2 * number, b"x"));
    }
    let stats = transport.stats();
    assert!(stats.held < 300_000 && stats.dropped_segments > 5000, "{stats:?}");
    give(&mut transport, 10_000, data(Lane::Control, 0, &[0, 0, 0, 1, b'x']));
    assert!(transport.poll_event().is_some(), "the other lanes go on");
}

#[test]
fn endless_empty_messages_stop_at_the_window() {
    let mut transport = victim();
    let (mut number, mut events) = (0, 0u64);
    for offset in (0..4 << 20).step_by(1000) {
        give(&mut transport, number, data(Lane::Bulk, offset, &[0; 1000]));
        number += 1;
        while transport.poll_event().is_some() {
            events += 1;
        }
    }
    assert_eq!(events, (4 << 20) / 64, "each weighs 64 bytes until it is consumed");
    assert!(transport.stats().held < 12 << 20);
    for _ in 0..events {
        transport.consume(Lane::Bulk, 0);
    }
    let mut more = 0;
    while transport.poll_event().is_some() {
        more += 1;
    }
    assert!(more > 0, "consuming lets the next through");
}

#[test]
fn a_length_that_no_message_has_ends_the_lane_and_is_reported_once() {
    let mut transport = victim();
    give(&mut transport, 0, data(Lane::Interactive, 0, &[0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff]));
    assert!(matches!(transport.poll_event(), Some(Event::Message { .. })));
    assert_eq!(transport.poll_event(), Some(Event::Broken(Lane::Interactive)));
    give(&mut transport, 1, data(Lane::Interactive, 9, &[0; 1000]));
    assert_eq!((transport.poll_event(), transport.stats().held), (None, 65));
    give(&mut transport, 2, data(Lane::Bulk, 0, &[0; 4]));
    assert!(transport.poll_event().is_some());
}

#[test]
fn an_announced_message_is_not_allocated_before_it_comes() {
    let mut transport = victim();
    give(&mut transport, 0, data(Lane::Bulk, 0, &[1, 0, 0, 0, 9]));
    assert!(transport.stats().held <= 64 << 10);
}

#[test]
fn a_packet_number_far_ahead_costs_nothing() {
    let mut transport = victim();
    for number in [(1 << 62) - 1, 0, 1 << 40, 2] {
        give(&mut transport, number, frames::write_ping);
    }
    let mut packet = Writer::default();
    assert!(transport.poll_transmit(origin(), &mut packet));
    assert!(packet.len() < 60);
}

#[test]
fn malformed_packets_are_counted_and_not_acknowledged() {
    let mut transport = victim();
    transport.handle_frames(origin(), &[]);
    transport.handle_frames(origin(), &[0x40]);
    transport.handle_frames(origin(), &[7]);
    give(&mut transport, 0, |out| _ = out.u8(0));
    give(&mut transport, 1, |out| _ = out.bytes(&[10, 0, 0x44, 0xff]));
    assert_eq!((transport.stats().dropped_malformed, transmit(&mut transport)), (5, 0));
}

#[test]
fn a_peer_that_never_acknowledges_is_probed_ever_more_rarely() {
    let mut transport = victim();
    for _ in 0..30 {
        transport.send(Lane::Bulk, message(1 << 20, 1)).unwrap();
    }
    let (mut now, mut sent) = (origin(), 0);
    while now < origin() + Duration::from_secs(600) {
        while transport.poll_transmit(now, &mut Writer::default()) {
            sent += 1;
        }
        now = transport.poll_timeout().unwrap();
        transport.handle_timeout(now);
    }
    assert!(sent < 160, "{sent}");
}
