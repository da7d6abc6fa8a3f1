//! Questions on topics, and who is there.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use peers_crypto::TopicKey;
use peers_node::{Event, QueryError, QueryId};
use peers_wire::{PeerId, TopicId};

use crate::net::Net;

const PATIENCE: Duration = Duration::from_secs(5);

fn topic() -> TopicKey {
    TopicKey::from_seed([9; 32])
}

/// Nodes in a line, of which some follow the topic.
fn line(seed: u64, nodes: usize, followers: &[usize]) -> Net {
    let mut net = Net::new(seed, nodes);
    (1..nodes).for_each(|node| net.connect(node - 1, node));
    net.run_secs(2);
    for node in followers {
        net.with(*node, |stack, now, wall| stack.subscribe(now, wall, topic().read_key()));
    }
    net.run_secs(2);
    net
}

fn ask(net: &mut Net, node: usize, body: &[u8]) -> QueryId {
    net.with(node, |stack, now, wall| stack.query(now, wall, topic().id(), body, PATIENCE)).unwrap()
}

fn questions(net: &Net, node: usize) -> Vec<(QueryId, PeerId, Bytes)> {
    let question = |event: &Event| match event {
        Event::Query { topic: on, query, from, body } if *on == topic().id() => Some((*query, *from, body.clone())),
        _ => None,
    };
    net.events(node).filter_map(question).collect()
}

fn answers(net: &Net, node: usize, to: QueryId) -> Vec<(PeerId, Bytes)> {
    let answer = |event: &Event| match event {
        Event::Answer { query, from, body } if *query == to => Some((*from, body.clone())),
        _ => None,
    };
    net.events(node).filter_map(answer).collect()
}

/// Who has come, last heard of, and not gone.
fn there(net: &mut Net, node: usize) -> BTreeSet<PeerId> {
    net.with(node, |stack, _, _| stack.who(topic().id()).into_iter().map(|present| present.peer).collect())
}

fn set_present(net: &mut Net, node: usize, present: bool) {
    net.with(node, |stack, now, wall| stack.set_present(now, wall, topic().id(), present)).unwrap();
}

#[test]
fn followers_are_asked_through_strangers_and_each_answers_in_its_own_name() {
    let mut net = line(51, 4, &[0, 2, 3]);
    let query = ask(&mut net, 0, b"who has the keys?");
    net.run_secs(1);
    assert_eq!(questions(&net, 1), [], "a stranger passes it on and reads nothing");
    for node in [2, 3] {
        assert_eq!(questions(&net, node), [(query, net.id(0), Bytes::from_static(b"who has the keys?"))]);
        let body = format!("not node {node}");
        net.with(node, |stack, now, wall| stack.answer(now, wall, query, body.as_bytes())).unwrap();
        let again = net.with(node, |stack, now, wall| stack.answer(now, wall, query, b"well"));
        assert_eq!(again, Err(QueryError::Closed), "once");
    }
    net.run_secs(10);
    let found: BTreeSet<_> = answers(&net, 0, query).into_iter().collect();
    assert_eq!(found, [2, 3].map(|node| (net.id(node), Bytes::from(format!("not node {node}")))).into());
    assert!(net.events(0).any(|event| matches!(event, Event::QueryEnded { query: ended } if *ended == query)));
    assert_eq!(answers(&net, 0, query).len(), 2, "each once, though the question was repeated");
}

#[test]
fn an_answer_larger_than_a_datagram_is_fetched() {
    let mut net = line(52, 3, &[0, 2]);
    let query = ask(&mut net, 0, b"all of it");
    net.run_millis(500);
    let body: Vec<u8> = (0..5000u32).flat_map(u32::to_le_bytes).collect();
    net.with(2, |stack, now, wall| stack.answer(now, wall, query, &body)).unwrap();
    net.run_secs(4);
    assert_eq!(answers(&net, 0, query), [(net.id(2), Bytes::from(body))]);
    net.run_secs(10);
    let followed = net.with(0, |stack, _, _| stack.cache().packets(topic().read_key().readers().id()).count());
    assert!(followed > 0, "it is in the cache as any other");
}

#[test]
fn a_cancelled_question_can_no_longer_be_answered() {
    let mut net = line(53, 3, &[0, 2]);
    let query = ask(&mut net, 0, b"well?");
    net.run_millis(500);
    net.with(0, |stack, now, wall| stack.cancel_query(now, wall, query));
    net.run_millis(500);
    assert_eq!(net.with(2, |stack, now, wall| stack.answer(now, wall, query, b"yes")), Err(QueryError::Closed));
}

#[test]
fn what_cannot_be_asked_is_told() {
    let mut net = line(54, 2, &[0]);
    let asked = |net: &mut Net, node, size: usize| {
        net.with(node, |stack, now, wall| stack.query(now, wall, topic().id(), &vec![0; size], PATIENCE))
    };
    assert_eq!(asked(&mut net, 1, 1), Err(QueryError::NotFollowed));
    assert_eq!(asked(&mut net, 0, peers_node::MAX_QUERY + 1), Err(QueryError::TooLarge));
    assert!(asked(&mut net, 0, peers_node::MAX_QUERY).is_ok());
    let refused = net.with(0, |stack, now, wall| stack.set_present(now, wall, TopicId([1; 32]), true));
    assert_eq!(refused, Err(QueryError::NotFollowed));
}

#[test]
fn who_announces_is_heard_of_by_readers_and_leaves_at_once_when_it_says_so() {
    // Node 1 follows nothing.
    let mut net = line(55, 4, &[0, 2, 3]);
    set_present(&mut net, 0, true);
    net.run_secs(2);
    set_present(&mut net, 2, true);
    net.run_secs(2);
    let all = |net: &Net, nodes: &[usize]| nodes.iter().map(|node| net.id(*node)).collect::<BTreeSet<_>>();
    assert_eq!(there(&mut net, 0), all(&net, &[2]));
    assert_eq!(there(&mut net, 2), all(&net, &[0]), "who was there before answers");
    assert_eq!(there(&mut net, 3), all(&net, &[0, 2]), "and a reader that does not say it is there hears of both");
    assert_eq!(there(&mut net, 1), BTreeSet::new());
    set_present(&mut net, 0, false);
    net.run_secs(2);
    assert_eq!(there(&mut net, 3), all(&net, &[2]));
    assert!(net.events(3).any(|event| matches!(event, Event::Absent { peer, .. } if *peer == net.id(0))));
}

#[test]
fn who_is_silent_is_there_no_longer_and_who_speaks_is() {
    let mut net = line(56, 3, &[0, 1, 2]);
    set_present(&mut net, 0, true);
    set_present(&mut net, 2, true);
    net.run_secs(3600);
    assert_eq!(there(&mut net, 1).len(), 2, "they say so again and again");
    net.pause(2);
    net.run_secs(600);
    let left = BTreeSet::from([net.id(0)]);
    assert_eq!(there(&mut net, 1), left);
}

#[test]
fn a_newcomer_asks_who_is_there() {
    let mut net = line(57, 3, &[0, 1]);
    set_present(&mut net, 0, true);
    net.run_secs(60);
    net.with(2, |stack, now, wall| stack.subscribe(now, wall, topic().read_key()));
    net.run_secs(1);
    assert_eq!(there(&mut net, 2), BTreeSet::new());
    net.with(2, |stack, now, wall| stack.ask_who(now, wall, topic().id(), PATIENCE)).unwrap();
    net.run_secs(1);
    let there_now = BTreeSet::from([net.id(0)]);
    assert_eq!(there(&mut net, 2), there_now, "1 follows and does not say that it is there");
    assert_eq!(there(&mut net, 0), BTreeSet::new(), "who asks is not announced by that");
}

#[test]
fn presence_of_sixteen_costs_each_less_than_half_a_message_a_second() {
    let mut net = Net::new(58, 16);
    for node in 0..16 {
        (1..=4).for_each(|step| net.connect(node, (node + step) % 16));
    }
    net.run_secs(2);
    (0..16).for_each(|node| net.with(node, |stack, now, wall| stack.subscribe(now, wall, topic().read_key())));
    let heard = |net: &mut Net| (0..16).map(|node| net.with(node, |stack, _, _| stack.stats().cache.messages)).sum::<u64>();
    net.run_secs(60);
    let before = heard(&mut net);
    net.run_secs(1800);
    let quiet = heard(&mut net) - before;
    (0..16).for_each(|node| set_present(&mut net, node, true));
    net.run_secs(60);
    let before = heard(&mut net);
    net.run_secs(1800);
    let present = heard(&mut net) - before;
    assert!((0..16).all(|node| there(&mut net, node).len() == 15));
    let more = (present - quiet) as f64 / 16.0 / 1800.0;
    assert!((0.001..0.5).contains(&more), "{more} messages per node and second");
}
