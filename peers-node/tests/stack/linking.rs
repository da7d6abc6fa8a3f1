//! Linking over whole stacks: in spite of loss, through a third, with people in the way.

use peers_crypto::{LinkRefusal, Ticket};
use peers_node::{Event, LinkFailure, LinkMatch, LinkOptions};

use crate::net::Net;

const BY_LINK: LinkOptions = LinkOptions { by_link: true, confirm: false };
const CONFIRM: LinkOptions = LinkOptions { by_link: false, confirm: true };

fn invite(net: &mut Net, node: usize, options: LinkOptions) -> Ticket {
    net.with(node, |stack, now, wall| stack.invite(now, wall, None, options)).unwrap().to_string().parse().unwrap()
}

fn accept(net: &mut Net, node: usize, ticket: &Ticket, options: LinkOptions) {
    net.with(node, |stack, now, wall| stack.accept(now, wall, ticket, "phone", options)).unwrap();
}

fn confirm(net: &mut Net, node: usize, same: bool) {
    net.with(node, |stack, now, wall| stack.confirm_linking(now, wall, same)).unwrap();
}

fn matched(net: &Net, node: usize) -> Option<LinkMatch> {
    net.events(node).find_map(|event| match event {
        Event::LinkMatched(found) => Some(found.clone()),
        _ => None,
    })
}

fn linked(net: &Net, node: usize) -> Option<usize> {
    net.events(node).find_map(|event| match event {
        Event::Linked { others, .. } => Some(*others),
        _ => None,
    })
}

fn failed(net: &Net, node: usize) -> Option<(LinkFailure, usize)> {
    net.events(node).find_map(|event| match event {
        Event::LinkFailed { failure, attempts } => Some((failure.clone(), *attempts)),
        _ => None,
    })
}

fn refused(net: &Net, node: usize) -> Option<LinkRefusal> {
    match failed(net, node)?.0 {
        LinkFailure::Refused(reason) => Some(reason),
        other => panic!("{other}"),
    }
}

/// The two are one user, and showed the same words before they were.
fn are_one(net: &mut Net, a: usize, b: usize) {
    assert_eq!((linked(net, a), linked(net, b)), (Some(0), Some(0)), "{:?} {:?}", failed(net, a), failed(net, b));
    assert_eq!(matched(net, a).unwrap().words, matched(net, b).unwrap().words);
    let users = [a, b].map(|node| net.with(node, |stack, _, _| stack.account().user().clone()));
    assert_eq!(users[0], users[1]);
    assert!(users[0].contains(net.id(a)) && users[0].contains(net.id(b)));
}

#[test]
fn two_that_talk_through_a_third_alone_are_linked_by_code_and_by_link() {
    for (seed, options) in [(31, LinkOptions::default()), (32, BY_LINK)] {
        let mut net = Net::new(seed, 3);
        net.cut.insert((0, 1));
        net.connect(0, 2);
        net.connect(1, 2);
        net.run_secs(2);
        let ticket = invite(&mut net, 0, options);
        accept(&mut net, 1, &ticket, LinkOptions::default());
        net.run_secs(30);
        are_one(&mut net, 0, 1);
    }
}

#[test]
fn two_are_linked_though_datagrams_are_lost_and_come_twice() {
    for seed in 40..52 {
        let mut net = Net::new(seed, 3);
        net.connect_all();
        net.loss = 0.3;
        net.duplication = 0.3;
        let ticket = invite(&mut net, 0, if seed % 2 == 0 { BY_LINK } else { LinkOptions::default() });
        accept(&mut net, 1, &ticket, LinkOptions::default());
        net.run_secs(120);
        are_one(&mut net, 0, 1);
    }
}

#[test]
fn a_link_is_enough_for_two_that_know_nobody() {
    let mut net = Net::new(33, 2);
    let ticket = invite(&mut net, 0, BY_LINK);
    assert_eq!(ticket.addresses().len(), 1);
    accept(&mut net, 1, &ticket, LinkOptions::default());
    net.run_secs(10);
    are_one(&mut net, 0, 1);
}

#[test]
fn an_acceptor_that_comes_before_any_session_is_linked_once_there_is_one() {
    let mut net = Net::new(34, 2);
    let ticket = invite(&mut net, 0, LinkOptions::default());
    accept(&mut net, 1, &ticket, LinkOptions::default());
    net.run_secs(20);
    assert_eq!(matched(&net, 0), None);
    net.connect(0, 1);
    net.run_secs(30);
    are_one(&mut net, 0, 1);
}

#[test]
fn with_confirmation_nothing_secret_is_sent_before_both_people_have_said_yes() {
    for order in [[0, 1], [1, 0]] {
        let mut net = Net::new(35, 2);
        net.connect_all();
        let ticket = invite(&mut net, 0, CONFIRM);
        accept(&mut net, 1, &ticket, CONFIRM);
        net.run_secs(100);
        let shown = [0, 1].map(|node| matched(&net, node).unwrap());
        assert_eq!(shown[0].words, shown[1].words);
        assert_eq!((shown[0].device, shown[1].device), (net.id(1), net.id(0)));
        assert_eq!((&*shown[0].name, &*shown[1].group), ("phone", "device"));
        confirm(&mut net, order[0], true);
        net.run_secs(100);
        for node in 0..2 {
            assert_eq!((linked(&net, node), failed(&net, node)), (None, None));
            assert_eq!(net.with(node, |stack, _, _| stack.account().user().members().count()), 1);
        }
        assert!(net.with(order[0], |stack, now, wall| stack.confirm_linking(now, wall, true)).is_err(), "once");
        confirm(&mut net, order[1], true);
        net.run_secs(10);
        are_one(&mut net, 0, 1);
    }
}

#[test]
fn a_person_who_sees_other_words_ends_it_on_both_sides() {
    for (who, options) in [(0, CONFIRM), (1, CONFIRM)] {
        let mut net = Net::new(36, 2);
        net.connect_all();
        let ticket = invite(&mut net, 0, options);
        accept(&mut net, 1, &ticket, options);
        net.run_secs(5);
        confirm(&mut net, who, false);
        net.run_secs(5);
        for node in 0..2 {
            assert_eq!(refused(&net, node), Some(LinkRefusal::Declined), "{who} says no, {node} hears it");
            assert_eq!(net.with(node, |stack, _, _| stack.account().user().members().count()), 1);
        }
        // Both are free for another try.
        let ticket = invite(&mut net, 0, LinkOptions::default());
        accept(&mut net, 1, &ticket, LinkOptions::default());
        net.run_secs(10);
        are_one(&mut net, 0, 1);
    }
}

#[test]
fn a_person_who_does_not_answer_in_time_ends_it_on_both_sides() {
    for who in 0..2 {
        let mut net = Net::new(37, 2);
        net.connect_all();
        let [inviting, accepting] = if who == 0 { [CONFIRM, LinkOptions::default()] } else { [LinkOptions::default(), CONFIRM] };
        let ticket = invite(&mut net, 0, inviting);
        accept(&mut net, 1, &ticket, accepting);
        net.run_secs(290);
        assert_eq!((failed(&net, 0), failed(&net, 1)), (None, None));
        net.run_secs(30);
        assert_eq!([refused(&net, 0), refused(&net, 1)], [Some(LinkRefusal::Expired); 2]);
        assert_eq!(net.with(1, |stack, _, _| stack.account().user().members().count()), 1);
    }
}

#[test]
fn a_second_guess_is_refused_at_once_and_the_inviter_is_told_who_tried_and_how_often() {
    let mut net = Net::new(38, 4);
    net.connect_all();
    let ticket = invite(&mut net, 0, LinkOptions::default());
    let first = ticket.to_string().split(' ').next().unwrap().to_owned();
    accept(&mut net, 1, &format!("{first} zoo zoo zoo").parse().unwrap(), LinkOptions::default());
    net.run_secs(5);
    assert_eq!((refused(&net, 0), refused(&net, 1)), (Some(LinkRefusal::WrongCode), Some(LinkRefusal::WrongCode)));
    for node in [2, 3] {
        accept(&mut net, node, &ticket, LinkOptions::default());
        net.run_secs(10);
        assert_eq!(refused(&net, node), Some(LinkRefusal::Spent));
    }
    let told = net.events(0).filter_map(|event| match event {
        Event::LinkAttempt { device, attempts } => Some((*device, *attempts)),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(net.id(2), 2), (net.id(3), 3)]);
    assert_eq!(net.with(0, |stack, _, _| stack.stats().late_links), 2);
}

#[test]
fn an_expired_code_is_refused_as_such_on_both_sides() {
    let mut net = Net::new(39, 2);
    net.connect_all();
    let ticket = invite(&mut net, 0, LinkOptions::default());
    net.run_secs(601);
    assert_eq!(refused(&net, 0), Some(LinkRefusal::Expired));
    accept(&mut net, 1, &ticket, LinkOptions::default());
    net.run_secs(10);
    assert_eq!(refused(&net, 1), Some(LinkRefusal::Expired));
    // Ten minutes later nobody is there any more.
    net.run_secs(600);
    accept(&mut net, 1, &ticket, LinkOptions::default());
    net.run_secs(61);
    let last = net.events(1).filter_map(|event| match event {
        Event::LinkFailed { failure, .. } => Some(failure.clone()),
        _ => None,
    });
    assert_eq!(last.last(), Some(LinkFailure::Refused(LinkRefusal::Nobody)));
}

#[test]
fn a_link_taken_back_or_made_here_is_refused() {
    let mut net = Net::new(53, 2);
    net.connect_all();
    let ticket = invite(&mut net, 0, BY_LINK);
    assert!(
        net.with(0, |stack, now, wall| stack.accept(now, wall, &ticket, "me", LinkOptions::default())).is_err(),
        "another is under way"
    );
    net.with(0, |stack, now, wall| stack.cancel_linking(now, wall));
    assert!(net.with(0, |stack, now, wall| stack.accept(now, wall, &ticket, "me", LinkOptions::default())).is_err(), "its own");
    accept(&mut net, 1, &ticket, LinkOptions::default());
    net.run_secs(10);
    assert_eq!(refused(&net, 1), Some(LinkRefusal::Spent));
}

#[test]
fn an_abandoned_acceptance_by_link_leaves_no_wish_for_a_session() {
    let mut net = Net::new(54, 2);
    let ticket = invite(&mut net, 0, BY_LINK);
    net.pause(0);
    accept(&mut net, 1, &ticket, LinkOptions::default());
    net.run_secs(61);
    assert_eq!(refused(&net, 1), Some(LinkRefusal::Nobody));
    net.resume(0);
    net.run_secs(300);
    assert_eq!(net.with(1, |stack, _, _| stack.sessions()), 0);
}

#[test]
fn two_far_apart_in_a_network_of_strangers_are_linked() {
    for (seed, options) in [(55, LinkOptions::default()), (56, BY_LINK)] {
        let nodes = 24;
        let mut net = Net::new(seed, nodes);
        net.cut.insert((0, nodes / 2));
        for node in 0..nodes {
            net.connect(node, (node + 1) % nodes);
            net.connect(node, (node + 2) % nodes);
        }
        net.run_secs(5);
        let ticket = invite(&mut net, 0, options);
        accept(&mut net, nodes / 2, &ticket, LinkOptions::default());
        net.run_secs(30);
        are_one(&mut net, 0, nodes / 2);
        let strangers = (1..nodes)
            .filter(|node| *node != nodes / 2)
            .filter(|node| net.events(*node).any(|event| matches!(event, Event::LinkMatched(_))));
        assert_eq!(strangers.count(), 0);
    }
}
