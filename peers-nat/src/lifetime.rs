//! How long our NAT remembers a silent flow, and how often that makes us speak.
//!
//! An auxiliary socket speaks to a peer and falls silent; after a while the peer is asked, by the session, to send one probe to where it saw the socket. What arrives is proof. What does not is believed
//! when it happened with two peers, each of which got a probe through right after. From one silence to the next it doubles, then the gap is halved.

use std::time::{Duration, Instant};

use peers_wire::PeerId;
use rand::RngExt;

use crate::agent::{Agent, Timer};
use crate::classify::{Behaviour, Filtering, Kind, Lifetime};
use crate::control::{Control, Test, Token};
use crate::output::SocketId;

/// The first silence that is tried; a longer one than our first pause between keep-alives by as much as a proven one is longer than the pause that follows from it.
const FIRST: Duration = Duration::from_secs(32);
/// Share of a proven lifetime after which a flow is used again.
const SHARE: f64 = 0.8;
/// The gap between what is proven and what is too long is not halved any more when it is this small, relative to what is proven.
const PRECISION: f64 = 1.2;
/// Shorter silences are not tried: no keep-alive could make use of it.
const SHORTEST: Duration = Duration::from_secs(10);
/// A flow counts as one in use when it has been answered again so long after its beginning (Linux: `nf_conntrack_udp_timeout_stream`).
const STREAM: Duration = Duration::from_millis(2200);
/// How long an answer or a probe is waited for, and how often it is asked for.
const ANSWER: Duration = Duration::from_millis(1200);
const ASKS: u32 = 3;
/// Attempts that end without result (the reporter left, or does not do what it is asked) before the measurement rests until the network changes.
const MAX_VOID: u32 = 8;

/// What a measurement does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The reporter is spoken to from the socket, so many times; it says that it sees it.
    Open { sends: u32 },
    /// It is spoken to once more when the flow is old enough to be one in use.
    Settle { sends: u32 },
    /// Nothing is sent.
    Silent,
    /// The reporter was asked for a probe so many times.
    Ask { asks: u32, silence: Duration },
    /// No probe came. The flow is begun anew, and a probe asked for at once: does one come then?
    Control { asks: u32, silence: Duration },
}

/// A measurement under way.
#[derive(Debug)]
pub(crate) struct Lifetimes {
    /// Whether flows are looked at that were answered, or such that never were.
    replied: bool,
    reporter: Option<PeerId>,
    socket: Option<SocketId>,
    token: Token,
    since: Instant,
    step: Step,
    /// Who has seen the flow gone after the silence that is being tried.
    gone: Option<PeerId>,
    voids: u32,
}

/// The silence to try next; none if it is known well enough.
///
/// - `longest`: no more than this is of use
fn next_silence(known: Lifetime, longest: Duration) -> Option<Duration> {
    let silence = match (known.proven, known.expired) {
        (None, None) => FIRST.min(longest),
        (Some(proven), None) => (proven * 2).min(longest),
        (None, Some(expired)) => expired / 2,
        (Some(proven), Some(expired)) if expired > proven.mul_f64(PRECISION) => (proven + expired) / 2,
        (Some(_), Some(_)) => return None,
    };
    let news = known.proven.is_none_or(|proven| silence > proven.mul_f64(1.01));
    (news && silence >= SHORTEST).then_some(silence)
}

/// The pause between keep-alives that follows from a lifetime, between the bounds that the user set; half the lower one if even that was shown to be too long.
fn pause(known: Lifetime, bounds: (Duration, Duration), no_need: bool) -> Duration {
    let (usual, most) = (bounds.0, bounds.1.max(bounds.0));
    let short = known.expired.is_some_and(|expired| expired.mul_f64(SHARE) < usual);
    let least = if short { usual / 2 } else { usual };
    match known.proven.map(|proven| proven.mul_f64(SHARE)) {
        _ if usual == most => usual,
        _ if no_need => most,
        Some(learned) => learned.clamp(least, most),
        None => least,
    }
}

/// Pause after a try that was disturbed.
const VOID: Duration = Duration::from_secs(30);

impl Agent {
    /// How long a path in use may be silent before it is pinged: what is known of our NAT's memory, between [`Config::keep_alive`](crate::Config::keep_alive) and
    /// [`Config::keep_alive_max`](crate::Config::keep_alive_max).
    pub fn keep_alive(&self) -> Duration {
        let behaviour = &self.check.behaviour;
        // Without NAT and filter there is nothing to keep open.
        let no_need = behaviour.kind() == Kind::Open;
        pause(behaviour.replied, (self.config.keep_alive, self.config.keep_alive_max), no_need)
    }

    /// Whether a session that `id` began is one that we keep open, too: it is wanted, it relays for us, or it is among the first of as many as we seek. The others are beyond what it takes to be reachable,
    /// and left to who began them.
    pub(crate) fn keeps(&self, id: PeerId) -> bool {
        self.wanted.contains_key(&id)
            || self.routes.values().any(|(via, _)| *via == id)
            || self.connected.range(..id).take(self.config.target_sessions.max(1)).count() < self.config.target_sessions.max(1)
    }

    /// Nothing is known of lifetimes: they are measured in the background, if there is something to measure.
    pub(crate) fn restart_lifetimes(&mut self, now: Instant) {
        self.stop_lifetimes();
        if self.config.keep_alive_max > self.config.keep_alive && remembers(&self.check.behaviour) {
            self.begin_lifetime(now, true, 0);
        }
    }

    pub(crate) fn stop_lifetimes(&mut self) {
        if let Some(socket) = self.lifetimes.take().and_then(|lifetimes| lifetimes.socket) {
            self.sockets.close(socket);
        }
        self.timers.clear(Timer::Lifetime);
    }

    fn begin_lifetime(&mut self, now: Instant, replied: bool, voids: u32) {
        let step = Step::Open { sends: 0 };
        let token = self.rng.random();
        self.lifetimes = Some(Lifetimes { replied, reporter: None, socket: None, token, since: now, step, gone: None, voids });
        self.timers.set(Timer::Lifetime, now + ANSWER);
    }

    fn longest(&self) -> Duration {
        self.config.keep_alive_max.mul_f64(1.0 / SHARE)
    }

    const fn known(&mut self, replied: bool) -> &mut Lifetime {
        let behaviour = &mut self.check.behaviour;
        if replied { &mut behaviour.replied } else { &mut behaviour.unreplied }
    }

    pub(crate) fn on_lifetime_timer(&mut self, now: Instant) {
        let Some(mut run) = self.lifetimes.take() else { return };
        let longest = self.longest();
        let Some(silence) = next_silence(*self.known(run.replied), longest) else {
            run.socket.into_iter().for_each(|socket| self.sockets.close(socket));
            if run.replied {
                self.begin_lifetime(now, false, run.voids);
            }
            return;
        };
        let alive = |id: &PeerId| self.can_introduce(*id);
        let left = run.reporter.as_ref().is_some_and(|id| !alive(id));
        let next = match run.step {
            _ if left => None,
            Step::Open { sends } if sends < ASKS => {
                run.step = Step::Open { sends: sends + 1 };
                self.speak(now, &mut run, silence).then_some(ANSWER)
            }
            Step::Settle { sends } if sends < ASKS => {
                run.step = Step::Settle { sends: sends + 1 };
                self.speak(now, &mut run, silence).then_some(ANSWER)
            }
            Step::Open { .. } | Step::Settle { .. } => None,
            // The machine may have slept: what counts is how long it really was.
            Step::Silent => {
                run.step = Step::Ask { asks: 0, silence: now.duration_since(run.since) };
                Some(Duration::ZERO)
            }
            Step::Ask { asks, silence } if asks < ASKS => {
                run.step = Step::Ask { asks: asks + 1, silence };
                self.ask_again(now, &run).then_some(ANSWER)
            }
            Step::Ask { silence, .. } => {
                run.step = Step::Control { asks: 0, silence };
                self.speak(now, &mut run, silence).then_some(ANSWER)
            }
            Step::Control { asks, silence } if asks < ASKS => {
                run.step = Step::Control { asks: asks + 1, silence };
                self.ask_again(now, &run).then_some(ANSWER)
            }
            Step::Control { .. } => None,
        };
        match next {
            Some(pause) => {
                self.lifetimes = Some(run);
                self.timers.set(Timer::Lifetime, now + pause);
            }
            None => self.void(now, run),
        }
    }

    /// An attempt has brought nothing: another follows, with another reporter if there is one.
    fn void(&mut self, now: Instant, run: Lifetimes) {
        run.socket.into_iter().for_each(|socket| self.sockets.close(socket));
        if run.voids < MAX_VOID {
            let pause = ANSWER * (1 << run.voids);
            self.begin_lifetime(now, run.replied, run.voids + 1);
            self.timers.set(Timer::Lifetime, now + pause);
        }
    }

    /// Speaks to the reporter from the socket that is tried; chooses them first if need be. Returns whether it went.
    fn speak(&mut self, now: Instant, run: &mut Lifetimes, silence: Duration) -> bool {
        if run.reporter.is_none() {
            // Two have to agree that a flow is gone.
            run.reporter = self.reporter(run.gone);
        }
        let Some(reporter) = run.reporter else { return false };
        let socket = run.socket.or_else(|| self.open_socket(now, silence + 30 * ANSWER));
        run.socket = socket;
        run.since = now;
        let test = if run.replied { Test::Answer } else { Test::Aside };
        socket
            .is_some_and(|socket| self.keep_socket(now, socket, silence + 30 * ANSWER) && self.send_test(reporter, socket, run.token, test))
    }

    /// Asks the reporter for a probe.
    fn ask_again(&mut self, now: Instant, run: &Lifetimes) -> bool {
        let Some(id) = run.reporter else { return false };
        let Some(link) = self.peers.get(&id).and_then(|peer| peer.paths.selected()) else { return false };
        let _ = now;
        self.send_control(now, id, None, link, &[Control::Again { token: run.token }])
    }

    /// The reporter says that it sees the socket; returns whether that was waited for.
    pub(crate) fn on_lifetime_answer(&mut self, now: Instant, id: PeerId, token: Token) -> bool {
        let longest = self.longest();
        let silence = self.lifetimes.as_ref().and_then(|run| next_silence(*self.known_of(run.replied), longest));
        let expected = |run: &&mut Lifetimes| run.token == token && run.reporter == Some(id);
        let (Some(run), Some(silence)) = (self.lifetimes.as_mut().filter(expected), silence) else { return false };
        let pause = match run.step {
            Step::Open { .. } if run.replied => {
                run.step = Step::Settle { sends: 0 };
                STREAM
            }
            // A late answer to what opened the flow.
            Step::Settle { sends: 0 } => return true,
            Step::Open { .. } | Step::Settle { .. } => {
                run.step = Step::Silent;
                silence
            }
            Step::Silent | Step::Ask { .. } | Step::Control { .. } => return true,
        };
        run.since = now;
        self.timers.set(Timer::Lifetime, now + pause);
        true
    }

    /// A datagram came by a socket that is to be silent: whoever sent it may have kept the flow alive, so the try is void.
    pub(crate) fn disturb_lifetime(&mut self, now: Instant, socket: SocketId) {
        let token = self.rng.random();
        if let Some(run) = self.lifetimes.as_mut().filter(|run| run.socket == Some(socket) && matches!(run.step, Step::Silent)) {
            run.token = token;
            run.step = Step::Open { sends: 0 };
            self.timers.set(Timer::Lifetime, now + VOID);
        }
    }

    /// A probe came by the socket in hand; returns whether it was asked for here.
    pub(crate) fn on_lifetime_probe(&mut self, now: Instant, tag: Token) -> bool {
        let arrival = self.arrival;
        let Some(mut run) = self.lifetimes.take_if(|run| run.token == tag && run.socket == Some(arrival)) else { return false };
        let replied = run.replied;
        match run.step {
            Step::Ask { silence, .. } => {
                let known = self.known(replied);
                known.proven = known.proven.max(Some(silence));
                known.expired = known.expired.filter(|expired| *expired > silence);
                run.gone = None;
                run.voids = 0;
            }
            // The reporter does what it is asked: so the flow was gone.
            Step::Control { silence, .. } => match (run.gone, run.reporter) {
                (Some(_), _) => {
                    let known = self.known(replied);
                    known.expired = Some(known.expired.map_or(silence, |expired| expired.min(silence)));
                    known.proven = known.proven.filter(|proven| *proven < silence);
                    run.gone = None;
                }
                (None, reporter) => {
                    run.gone = reporter;
                    run.reporter = None;
                }
            },
            Step::Open { .. } | Step::Settle { .. } | Step::Silent => {
                self.lifetimes = Some(run);
                return true;
            }
        }
        // A flow that a probe came by counts as answered, and one that another reporter is to see has to be new.
        if !replied || run.reporter.is_none() {
            run.socket.take().into_iter().for_each(|socket| self.sockets.close(socket));
        }
        run.token = self.rng.random();
        run.step = Step::Open { sends: 0 };
        self.lifetimes = Some(run);
        self.timers.set(Timer::Lifetime, now);
        true
    }

    const fn known_of(&self, replied: bool) -> &Lifetime {
        if replied { &self.check.behaviour.replied } else { &self.check.behaviour.unreplied }
    }
}

/// Whether there is something that remembers flows.
fn remembers(behaviour: &Behaviour) -> bool {
    behaviour.kind() != Kind::Open && (behaviour.mapping.is_some() || behaviour.filtering > Some(Filtering::EndpointIndependent))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(110));

    proptest! {
        #[test]
        fn a_lifetime_is_found_in_a_few_steps_and_keep_alives_stay_under_it(seconds in 10..1000u64) {
            let (lifetime, longest) = (Duration::from_secs(seconds), BOUNDS.1.mul_f64(1.0 / SHARE));
            let (mut known, mut steps) = (Lifetime::default(), 0);
            while let Some(silence) = next_silence(known, longest) {
                steps += 1;
                prop_assert!(steps <= 8 && silence <= longest);
                if silence < lifetime {
                    known.proven = Some(silence);
                } else {
                    known.expired = Some(silence);
                }
                let pause = pause(known, BOUNDS, false);
                prop_assert!(pause >= BOUNDS.0 / 2 && pause <= BOUNDS.1);
            }
            prop_assert!(pause(known, BOUNDS, false) < lifetime.max(BOUNDS.0 / 2 + Duration::from_secs(1)));
            let pause = pause(known, BOUNDS, false);
            prop_assert!(pause >= lifetime.mul_f64(0.6).clamp(BOUNDS.0 / 2, BOUNDS.1.mul_f64(0.99)), "{pause:?}");
        }
    }

    #[test]
    fn bounds_that_are_equal_are_kept_whatever_was_learned() {
        let known = Lifetime { proven: Some(Duration::from_secs(500)), expired: None };
        assert_eq!(pause(known, (BOUNDS.0, BOUNDS.0), true), BOUNDS.0);
        assert_eq!(pause(known, BOUNDS, false), BOUNDS.1);
        assert_eq!(pause(Lifetime::default(), BOUNDS, true), BOUNDS.1);
        assert_eq!(pause(Lifetime::default(), BOUNDS, false), BOUNDS.0);
    }
}
