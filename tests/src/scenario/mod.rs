//! Scenarios: what is simulated, and the figures that come of it.

/// The parameters of a scenario: for each field what must hold of it.
macro_rules! parameters {
    ($scenario:ident { $($name:ident: $holds:expr,)* }) => {
        impl $scenario {
            /// The names that `set` takes.
            pub const PARAMETERS: &[&str] = &[$(stringify!($name)),*];

            /// Sets a parameter from text.
            ///
            /// # Errors
            /// [`SetError`](super::SetError) if there is no such parameter or it cannot have that value.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), super::SetError> {
                match key {
                    $(stringify!($name) => super::set(key, value, &mut self.$name, $holds),)*
                    _ => Err(super::SetError::Unknown { key: key.to_owned(), known: Self::PARAMETERS }),
                }
            }

            /// Every parameter with its value, as `set` takes them.
            pub fn parameters(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($name), self.$name.to_string())),*]
            }
        }
    };
}

pub mod chaos;
pub mod eclipse;
pub mod flashcrowd;
pub mod flood;
pub mod lab;
pub mod matrix;
pub mod partition;
pub mod replicate;
pub mod sleep;
pub mod slowlinks;
pub mod survive;
mod swarm;
pub mod theory;

use core::fmt::{self, Display};
use core::str::FromStr;
use core::time::Duration;

use rand::{Rng, RngExt};
use serde::Serialize;

use crate::nat::Kind;

/// A parameter was given that a scenario does not have, or a value that it cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetError {
    /// There is no such parameter.
    Unknown {
        /// What was given.
        key: String,
        /// What there is.
        known: &'static [&'static str],
    },
    /// The value is not a number of the right kind, or out of range.
    Value {
        /// The parameter.
        key: String,
        /// What was given for it.
        value: String,
    },
}

impl core::error::Error for SetError {}

impl Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { key, known } => write!(f, "there is no parameter {key}; there are: {}", known.join(", ")),
            Self::Value { key, value } => write!(f, "{key} cannot be {value}"),
        }
    }
}

/// Names the command that repeats a run, should it panic.
struct Replay(String);

impl Replay {
    /// Of a run of `scenario` with those parameters.
    fn new(scenario: &str, seed: u64, parameters: &[(&'static str, String)]) -> Self {
        let settings: String = parameters.iter().map(|(key, value)| format!(" --set {key}={value}")).collect();
        Self(format!("cargo xtask sim {scenario} --seed {seed}{settings}"))
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to replay this run: {}", self.0);
        }
    }
}

/// Reads `value` into `slot` if it parses and `holds` of it.
fn set<T: FromStr>(key: &str, value: &str, slot: &mut T, holds: impl FnOnce(&T) -> bool) -> Result<(), SetError> {
    match value.parse() {
        Ok(parsed) if holds(&parsed) => {
            *slot = parsed;
            Ok(())
        }
        _ => Err(SetError::Value { key: key.to_owned(), value: value.to_owned() }),
    }
}

/// Whether `value` is a probability.
fn is_share(value: &f64) -> bool {
    (0.0..=1.0).contains(value)
}

/// How many of `of` a share of them are, rounded.
fn part(share: f64, of: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of peers are small and not negative")]
    let part = (share * of as f64).round() as usize;
    part
}

/// A translator as the scenarios share them out: 30 % symmetric, 40 % port-restricted, 20 % address-restricted, 10 % full-cone.
fn random_nat(rng: &mut impl Rng) -> Kind {
    match rng.random_range(0..10) {
        0..3 => Kind::SYMMETRIC,
        3..7 => Kind::PORT_RESTRICTED,
        7..9 => Kind::ADDRESS_RESTRICTED,
        _ => Kind::FULL_CONE,
    }
}

/// A duration of exponential distribution.
fn exponential(mean: Duration, rng: &mut impl Rng) -> Duration {
    mean.mul_f64(-(1.0 - rng.random::<f64>()).ln())
}

/// Delays that are asked for: soon, at last, ever.
const REACHED_WITHIN: [Duration; 3] = [Duration::from_millis(2500), Duration::from_secs(10), Duration::MAX];
/// Largest body of a message that is one packet.
const MAX_ONE_PACKET: usize = peers_wire::MAX_PAYLOAD - peers_crypto::SEAL_OVERHEAD;

/// Mean and percentiles of samples; all `None` without samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Greatest.
    pub max: Option<f64>,
}

impl Spread {
    /// Of `samples` in any order; percentiles are nearest-rank. O(n log n).
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| sorted.get((percent * sorted.len()).div_ceil(100).saturating_sub(1)).copied();
        Self {
            mean: (!sorted.is_empty()).then(|| sorted.iter().sum::<f64>() / sorted.len() as f64),
            p50: rank(50),
            p99: rank(99),
            max: sorted.last().copied(),
        }
    }
}

/// A part of a whole, counted; `None` of nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// How many of them.
    pub part: u64,
    /// How many there are.
    pub whole: u64,
}

impl Share {
    fn count(&mut self, holds: bool) {
        self.part += u64::from(holds);
        self.whole += 1;
    }

    fn add(&mut self, other: Self) {
        self.part += other.part;
        self.whole += other.whole;
    }

    /// All of them together.
    fn pool(shares: impl Iterator<Item = Self>) -> Self {
        let mut pooled = Self::default();
        shares.for_each(|share| pooled.add(share));
        pooled
    }

    /// The ratio of the two.
    pub fn ratio(self) -> Option<f64> {
        (self.whole > 0).then(|| self.part as f64 / self.whole as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn percentiles_are_those_of_the_definition() {
        let samples: Vec<_> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(Spread::of(&samples), Spread { mean: Some(100.5), p50: Some(100.0), p99: Some(198.0), max: Some(200.0) });
        assert_eq!(Spread::of(&[7.0]), Spread { mean: Some(7.0), p50: Some(7.0), p99: Some(7.0), max: Some(7.0) });
        assert_eq!(Spread::of(&[]), Spread::default());
    }

    #[test]
    fn translators_and_lives_are_shared_out_as_said() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let kinds: Vec<_> = (0..10_000).map(|_| random_nat(&mut rng)).collect();
        let count = |kind| kinds.iter().filter(|k| **k == kind).count();
        let counts = [Kind::SYMMETRIC, Kind::PORT_RESTRICTED, Kind::ADDRESS_RESTRICTED, Kind::FULL_CONE].map(count);
        assert!(counts.iter().zip([3000, 4000, 2000, 1000]).all(|(n, expected)| n.abs_diff(expected) < 150), "{counts:?}");
        let mean = (0..10_000).map(|_| exponential(Duration::from_secs(60), &mut rng)).sum::<Duration>() / 10_000;
        assert!(mean.as_secs_f64() > 58.0 && mean.as_secs_f64() < 62.0, "{mean:?}");
    }
}
