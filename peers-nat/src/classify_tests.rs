use proptest::prelude::*;

use super::*;

/// How the ports of a model's mappings are chosen.
#[derive(Debug, Clone, Copy)]
enum Ports {
    Preserved,
    Sequential(i16),
    Block(u16),
    Random,
}

/// A NAT as RFC 4787 describes it, written down naively.
#[derive(Debug, Clone, Copy)]
struct Model {
    mapping: Mapping,
    filtering: Filtering,
    ports: Ports,
    hairpin: bool,
}

const SOCKETS: usize = 4;
const LOCAL: u16 = 40_000;

/// A reporter that says what is not so.
#[derive(Debug, Clone)]
enum Lie {
    /// Any addresses, and none of the probes it was asked for, though it says so.
    Noise(Vec<u16>),
    /// As if the mapping depended on nothing: always the same port, at the true address.
    Constant(u16),
    /// That we have no NAT.
    Local,
    /// As if each flow had a port of its own, the one port after the other.
    Counting(u16),
    /// It says nothing at all.
    Silent,
}

fn lies() -> impl Strategy<Value = Lie> {
    prop_oneof![
        proptest::collection::vec(1..=u16::MAX, 1..8).prop_map(Lie::Noise),
        (1..=u16::MAX).prop_map(Lie::Constant),
        Just(Lie::Local),
        (1..60_000u16).prop_map(Lie::Counting),
        Just(Lie::Silent),
    ]
}

fn models() -> impl Strategy<Value = Model> {
    let mappings = prop_oneof![
        Just(Mapping::None),
        Just(Mapping::EndpointIndependent),
        Just(Mapping::AddressDependent),
        Just(Mapping::AddressAndPortDependent)
    ];
    let filterings =
        prop_oneof![Just(Filtering::EndpointIndependent), Just(Filtering::AddressDependent), Just(Filtering::AddressAndPortDependent)];
    let ports = prop_oneof![
        Just(Ports::Preserved),
        prop_oneof![1..=4i16, -4..=-1i16].prop_map(Ports::Sequential),
        (400..1024u16).prop_map(Ports::Block),
        Just(Ports::Random)
    ];
    (mappings, filterings, ports, any::<bool>()).prop_map(|(mapping, filtering, ports, hairpin)| {
        let dependent = matches!(mapping, Mapping::AddressDependent | Mapping::AddressAndPortDependent);
        // A port can be preserved for one destination only.
        let ports = if dependent && matches!(ports, Ports::Preserved) { Ports::Random } else { ports };
        Model { mapping, filtering, ports, hairpin }
    })
}

fn id(n: usize) -> PeerId {
    PeerId([u8::try_from(n + 1).unwrap(); 32])
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// The evidence that `count` reporters give of a NAT, `liars` of them as they please. `random`: the ports that a NAT which chooses at random chooses.
fn evidence(model: Model, count: usize, liars: &[(usize, Lie)], mut random: impl FnMut() -> u16) -> Evidence {
    let (inside, outside) = ("10.0.0.7", "198.51.100.9");
    let ip = if model.mapping == Mapping::None { inside } else { outside };
    let mut evidence = Evidence {
        local: vec![at(inside, LOCAL)],
        hairpin: (model.mapping != Mapping::None).then_some(model.hairpin),
        ..Evidence::default()
    };
    let (mut mapped, mut flows) = (BTreeMap::new(), 0);
    let mut map = |local: u16, to: usize, second: bool| {
        let key = match model.mapping {
            Mapping::None => return local,
            Mapping::EndpointIndependent => (local, 0, false),
            Mapping::AddressDependent => (local, to, false),
            Mapping::AddressAndPortDependent => (local, to, second),
        };
        let next = mapped.len();
        *mapped.entry(key).or_insert_with(|| match model.ports {
            Ports::Preserved => local,
            Ports::Sequential(step) => 30_000u16.wrapping_add_signed(step * i16::try_from(next).unwrap()),
            Ports::Block(size) => 20_000 + random() % size,
            Ports::Random => random(),
        })
    };
    for n in 0..count {
        evidence.main.push((id(n), at(ip, map(LOCAL, n, false))));
    }
    for socket in 0..SOCKETS {
        for n in 0..count {
            let local = 41_000 + 17 * u16::try_from(socket).unwrap();
            evidence.reports.push(Report { by: id(n), socket, order: flows, second: false, seen: at(ip, map(local, n, false)) });
            flows += 1;
        }
    }
    for n in 0..count {
        for socket in 0..2 {
            let seen = at(ip, map(41_000 + 17 * u16::try_from(socket).unwrap(), n, true));
            evidence.reports.push(Report { by: id(n), socket, order: flows, second: true, seen });
            flows += 1;
        }
        let came = match model.filtering {
            Filtering::EndpointIndependent => (true, true),
            Filtering::AddressDependent => (true, false),
            Filtering::AddressAndPortDependent => (false, false),
        };
        evidence.trials.push(Trial { by: id(n), asked: (true, true), came });
    }
    for (liar, lie) in liars {
        lie_about(&mut evidence, id(*liar), lie, ip, inside);
    }
    evidence
}

fn lie_about(evidence: &mut Evidence, liar: PeerId, lie: &Lie, outside: &str, inside: &str) {
    let mut n = 0u16;
    let mut said = |port: u16| {
        n += 1;
        match lie {
            Lie::Noise(ports) => at("203.0.113.77", ports[usize::from(n) % ports.len()]),
            Lie::Constant(port) => at(outside, *port),
            Lie::Local => at(inside, port),
            Lie::Counting(first) => at(outside, first + n),
            Lie::Silent => at(outside, port),
        }
    };
    evidence.main.iter_mut().filter(|(by, _)| *by == liar).for_each(|(_, seen)| *seen = said(seen.port()));
    evidence.reports.iter_mut().filter(|report| report.by == liar).for_each(|report| report.seen = said(report.seen.port()));
    evidence.trials.iter_mut().filter(|trial| trial.by == liar).for_each(|trial| trial.came = (false, false));
    if matches!(lie, Lie::Silent) {
        evidence.reports.retain(|report| report.by != liar);
        evidence.trials.retain(|trial| trial.by != liar);
        evidence.main.retain(|(by, _)| *by != liar);
    }
}

fn ports(seed: u64) -> impl FnMut() -> u16 {
    let mut state = seed | 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1024 + u16::try_from(state >> 48).unwrap() % 60_000
    }
}

fn what(behaviour: &Behaviour) -> (Option<Mapping>, Option<Filtering>, Kind, Option<bool>, Option<IpAddr>) {
    (behaviour.mapping, behaviour.filtering, behaviour.kind(), behaviour.hairpinning, behaviour.external)
}

fn fits(model: Model, found: Option<Allocation>) -> bool {
    match (model.mapping, model.ports, found) {
        (Mapping::None, _, found) => found.is_none(),
        (_, Ports::Preserved, Some(Allocation::Preserved)) => true,
        (_, Ports::Sequential(step), Some(Allocation::Sequential { step: found })) => step == found,
        // Who lies can move it a little, but not widen it.
        (_, Ports::Block(size), Some(Allocation::Block { low, high })) => high - low < size && high >= 20_000 && low < 20_000 + size,
        (_, Ports::Random, Some(Allocation::Random)) => true,
        // Few ports of a small block can lie in a row, and four tell nothing of a block.
        (_, Ports::Block(_), Some(Allocation::Sequential { .. } | Allocation::Random)) => {
            model.mapping == Mapping::EndpointIndependent || matches!(found, Some(Allocation::Sequential { .. }))
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn every_kind_of_nat_is_told_by_two_or_three_honest_reporters(model in models(), count in 2..=3usize, seed: u64) {
        let behaviour = evidence(model, count, &[], ports(seed)).verdict();
        prop_assert_eq!((behaviour.mapping, behaviour.filtering), (Some(model.mapping), Some(model.filtering)));
        prop_assert_eq!((behaviour.agreed(), behaviour.reporters.len()), (count, count));
        prop_assert!(fits(model, behaviour.allocation), "{:?}", behaviour.allocation);
    }

    #[test]
    fn a_lying_minority_cannot_change_the_verdict(model in models(), liar in 0..3usize, lie in lies(), seed: u64) {
        let honest = evidence(model, 3, &[], ports(seed)).verdict();
        let silent = matches!(lie, Lie::Silent);
        let behaviour = evidence(model, 3, &[(liar, lie)], ports(seed)).verdict();
        prop_assert_eq!(what(&behaviour), what(&honest));
        prop_assert!(fits(model, behaviour.allocation), "{:?}", behaviour.allocation);
        prop_assert!(behaviour.reporters.iter().all(|reporter| reporter.agrees || reporter.peer == id(liar)));
        prop_assert_eq!(behaviour.reporters.len(), if silent { 2 } else { 3 });
    }

    /// Even who knows what another saw, and says the same.
    #[test]
    fn a_reporter_that_repeats_anothers_word_cannot_hide_a_symmetric_nat(ports_seed: u64, liar in 0..3usize) {
        let model = Model { mapping: Mapping::AddressAndPortDependent, filtering: Filtering::AddressAndPortDependent, ports: Ports::Random, hairpin: false };
        let mut evidence = evidence(model, 3, &[], ports(ports_seed));
        let victim = id((liar + 1) % 3);
        let said: Vec<Report> = evidence.reports.iter().filter(|report| report.by == victim && !report.second).copied().collect();
        for report in evidence.reports.iter_mut().filter(|report| report.by == id(liar)) {
            report.seen = said.iter().find(|said| said.socket == report.socket).unwrap().seen;
        }
        prop_assert_eq!(evidence.verdict().mapping, Some(Mapping::AddressAndPortDependent));
    }

    #[test]
    fn the_order_of_the_evidence_does_not_matter(model in models(), lie in proptest::option::of(lies()), seed: u64, turns in 0..20usize) {
        let liars: Vec<(usize, Lie)> = lie.into_iter().map(|lie| (1, lie)).collect();
        let evidence = evidence(model, 3, &liars, ports(seed));
        let mut turned = evidence.clone();
        turned.reports.reverse();
        turned.main.rotate_left(turns % evidence.main.len());
        turned.trials.reverse();
        let reports = turned.reports.len();
        turned.reports.rotate_left(turns % reports);
        prop_assert_eq!(turned.verdict(), evidence.verdict());
    }

    #[test]
    fn one_reporter_alone_decides_no_mapping(model in models(), seed: u64) {
        prop_assert_eq!(evidence(model, 1, &[], ports(seed)).verdict().mapping, None);
    }

    #[test]
    fn any_reports_have_a_verdict(
        reports in proptest::collection::vec((0..5usize, 0..4usize, 0..30usize, any::<bool>(), any::<(u32, u16)>()), 0..40),
        trials in proptest::collection::vec((0..5usize, any::<((bool, bool), (bool, bool))>()), 0..8),
    ) {
        let reports = reports.into_iter().map(|(by, socket, order, second, (ip, port))| Report {
            by: id(by), socket, order, second, seen: SocketAddr::from((core::net::Ipv4Addr::from_bits(ip), port)),
        });
        let trials = trials.into_iter().map(|(by, (asked, came))| Trial { by: id(by), asked, came });
        let evidence = Evidence { reports: reports.collect(), trials: trials.collect(), ..Evidence::default() };
        let behaviour = evidence.verdict();
        prop_assert!(behaviour.agreed() <= behaviour.reporters.len() && behaviour.reporters.len() <= MAX_REPORTERS);
    }
}

#[test]
fn a_datagram_from_an_address_never_sent_to_outweighs_all_words() {
    let model = Model {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
        ports: Ports::Preserved,
        hairpin: false,
    };
    let mut evidence = evidence(model, 3, &[], || 1);
    assert_eq!(evidence.verdict().filtering, Some(Filtering::AddressAndPortDependent));
    evidence.trials[2].came = (true, false);
    assert_eq!(evidence.verdict().filtering, Some(Filtering::AddressDependent));
    evidence.trials[0].came = (false, true);
    assert_eq!(evidence.verdict().filtering, Some(Filtering::EndpointIndependent));
}

#[test]
fn flows_of_others_do_not_hide_that_ports_are_sequential() {
    assert_eq!(step(&[(0, 100), (3, 103), (6, 108), (9, 111)]), Some(1));
    assert_eq!(step(&[(0, 65_530), (3, 0), (6, 6)]), Some(2));
    assert_eq!(step(&[(0, 100), (3, 97), (6, 103)]), None);
    assert_eq!(step(&[(0, 100), (3, 100)]), None);
}
