//! Many caches on a network with latency and loss: who receives what, when, at what cost.

mod network;

use std::time::Duration;

use network::Network;
use peers_crypto::TopicKey;

struct Report {
    missing: usize,
    to_all: Vec<f64>,
    copies: f64,
    datagrams: f64,
}

/// The scenario `replicate` without address translators and churn: half of `count` peers subscribe, 30 publishes, one a second.
fn replicate(seed: u64, count: usize, loss: f64) -> Report {
    let mut network = Network::mesh(seed, count, 11);
    network.loss = loss;
    let topic = TopicKey::from_seed([3; 32]);
    let subscribers: Vec<usize> = (0..count).step_by(2).collect();
    subscribers.iter().for_each(|peer| network.subscribe(*peer, topic.id()));
    // Topics are sought for the second time after half a minute.
    network.run(Duration::from_secs(50));
    let idle = network.datagrams;
    network.run(Duration::from_secs(40));
    let idle = (network.datagrams - idle) as f64 / count as f64 / 40.0;
    assert!(idle < 0.2, "{idle} datagrams per peer and second when nothing happens");
    let (datagrams, packets) = (network.datagrams, network.packets);
    let mut published = Vec::new();
    for i in 0..30 {
        let publisher = subscribers[(i * 7) % subscribers.len()];
        let id = network.publish(publisher, &topic, 512)[0];
        published.push((id, publisher, network.now));
        network.run(Duration::from_secs(1));
    }
    network.run(Duration::from_secs(30));
    let (mut missing, mut to_all) = (0, Vec::new());
    for (id, publisher, at) in &published {
        let mut last = Duration::ZERO;
        for peer in subscribers.iter().filter(|peer| *peer != publisher) {
            match network.received.get(&(*peer, *id)) {
                Some(received) => last = last.max(*received - *at),
                None => missing += 1,
            }
        }
        to_all.push(last.as_secs_f64());
    }
    to_all.sort_by(f64::total_cmp);
    let holders: usize = published.iter().map(|(id, _, _)| network.peers.iter().filter(|peer| peer.get(id).is_some()).count() - 1).sum();
    let received: u64 = network.peers.iter().map(|peer| peer.stats().packets).sum();
    let _ = packets;
    let report = Report {
        missing,
        copies: received as f64 / holders as f64,
        datagrams: (network.datagrams - datagrams) as f64 / published.len() as f64,
        to_all,
    };
    eprintln!(
        "{count} peers, loss {loss}: missing {}, to all p50 {:.2} max {:.2} s, copies {:.3}, holders {:.1}, datagrams per publish {:.0}, idle {idle:.3}",
        report.missing,
        report.to_all[15],
        report.to_all[29],
        report.copies,
        holders as f64 / 30.0,
        report.datagrams
    );
    report
}

#[test]
fn every_subscriber_gets_every_packet_and_few_get_it_twice() {
    let report = replicate(1, 128, 0.0);
    assert_eq!(report.missing, 0);
    assert!(report.copies <= 1.2, "{} copies per peer", report.copies);
    assert!(report.to_all[29] <= 1.0, "{:?}", report.to_all);
    assert!(report.datagrams < 3000.0, "{}", report.datagrams);
}

#[test]
fn losing_one_message_in_twenty_loses_no_packet() {
    let report = replicate(2, 128, 0.05);
    assert_eq!(report.missing, 0);
    assert!(report.copies <= 1.3, "{} copies per peer", report.copies);
    assert!(report.to_all[29] <= 2.0, "{:?}", report.to_all);
}

#[test]
fn losing_three_messages_in_ten_loses_no_packet() {
    let report = replicate(3, 64, 0.3);
    assert_eq!(report.missing, 0);
}
