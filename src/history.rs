//! What the numbers were in the last hour, in steps of ten seconds: of the server as a whole, and of each backend. It lives as
//! long as the server, whatever is reloaded, and takes 200 kB and four for each backend. Not here: where the numbers come
//! from, who is shown them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::metrics::{Counts, Readings, quantile};
use crate::outcome::LOGIN_OUTCOMES;

/// Between two steps.
pub const STEP: Duration = Duration::from_secs(10);
/// Steps that are remembered.
const LENGTH: usize = 360;
/// How long logging in took is said of so many steps up to one: in a single one there may be few logins, or none.
const MINUTE: usize = 6;
const FIVE_MINUTES: usize = 30;

/// The last hour.
#[derive(Debug)]
pub struct History {
    began: (Instant, SystemTime),
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    last: (Instant, Readings),
    ended_at: SystemTime,
    /// A few more than are shown: the first of these looks back, too.
    steps: VecDeque<Step>,
    backends: BTreeMap<String, VecDeque<BackendStep>>,
}

#[derive(Debug)]
struct Step {
    sessions: u64,
    /// Per second, in the order of [`LOGIN_OUTCOMES`].
    logins: [f32; LOGIN_OUTCOMES.len()],
    to_client: f64,
    to_backend: f64,
    queue: u64,
    /// As they were by then, since the start.
    login_seconds: Vec<(f64, u64)>,
}

#[derive(Debug)]
struct BackendStep {
    sessions: u32,
    logins: f32,
    is_up: bool,
}

/// A backend at one moment.
#[derive(Debug, Clone)]
pub struct BackendSample {
    /// Its name.
    pub name: String,
    /// Sessions that are there or on their way.
    pub sessions: usize,
    /// Whether it is well, as far as is known.
    pub is_up: bool,
}

/// Three quantiles.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// The last hour as it is shown: series that end at one moment, the oldest value first. Rates are per second.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Shown {
    pub ends_at: Option<SystemTime>,
    pub sessions: Vec<u64>,
    pub logins_ok: Vec<f64>,
    pub logins_failed: Vec<f64>,
    /// Without the outcomes that did not occur.
    pub logins_failed_by: BTreeMap<&'static str, Vec<f64>>,
    pub bytes_to_client: Vec<f64>,
    pub bytes_to_backend: Vec<f64>,
    pub queue: Vec<u64>,
    /// Of the minute that ends with the step.
    pub login_seconds: Vec<Option<Quantiles>>,
    pub backends: BTreeMap<String, ShownBackend>,
}

/// That of a backend.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ShownBackend {
    pub sessions: Vec<u32>,
    pub logins: Vec<f64>,
    pub is_up: Vec<bool>,
}

impl Default for History {
    fn default() -> Self {
        let began = (Instant::now(), SystemTime::now());
        let kept = Kept {
            last: (began.0, Readings::default()),
            ended_at: began.1,
            steps: VecDeque::new(),
            backends: BTreeMap::new(),
        };
        Self { began, kept: Mutex::new(kept) }
    }
}

impl History {
    /// Adds a step now and then, for ever.
    pub async fn keep(&self, sample: impl Fn() -> (Readings, Vec<BackendSample>)) {
        let mut tick = interval_at(Instant::now() + STEP, STEP);
        // Who was asleep for an hour has nothing to tell of it.
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let (readings, backends) = sample();
            self.add(readings, backends);
        }
    }

    /// When it began, and how long that is ago.
    pub fn began(&self) -> (SystemTime, Duration) {
        (self.began.1, self.began.0.elapsed())
    }

    /// How long logging in took in the last five minutes, from what is read now; `None`: nobody has logged in.
    pub fn recent_logins(&self, now: &Readings) -> Option<Quantiles> {
        let kept = self.kept();
        let before = kept.steps.len().checked_sub(FIVE_MINUTES).and_then(|at| kept.steps.get(at));
        Quantiles::of(&now.login_seconds, before.map_or(&[][..], |step| &step.login_seconds))
    }

    fn add(&self, readings: Readings, backends: Vec<BackendSample>) {
        let now = Instant::now();
        let mut kept = self.kept();
        let seconds = now.saturating_duration_since(kept.last.0).as_secs_f64().max(0.001);
        let last = std::mem::replace(&mut kept.last, (now, readings)).1;
        kept.ended_at = SystemTime::now();
        let readings = kept.last.1.clone();
        // Those that the configuration does not name any more are forgotten.
        let mut before = std::mem::take(&mut kept.backends);
        for BackendSample { name, sessions, is_up } in backends {
            let mut steps = before.remove(&name).unwrap_or_default();
            let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
            let logins = single(growth(&last.backend_logins, &readings.backend_logins, &name, seconds));
            push(&mut steps, BackendStep { sessions, logins, is_up }, LENGTH);
            kept.backends.insert(name, steps);
        }
        let step = Step {
            sessions: readings.listeners.values().map(|listener| listener.sessions).sum(),
            logins: LOGIN_OUTCOMES.map(|outcome| single(growth(&last.logins, &readings.logins, outcome, seconds))),
            to_client: rate(last.bytes_to_client, readings.bytes_to_client, seconds),
            to_backend: rate(last.bytes_to_backend, readings.bytes_to_backend, seconds),
            queue: readings.queue,
            login_seconds: readings.login_seconds,
        };
        push(&mut kept.steps, step, LENGTH + MINUTE);
    }

    /// All of it.
    pub fn shown(&self) -> Shown {
        let kept = self.kept();
        let first = kept.steps.len().saturating_sub(LENGTH);
        let steps = || kept.steps.iter().skip(first);
        let mut shown = Shown {
            ends_at: Some(kept.ended_at),
            sessions: steps().map(|step| step.sessions).collect(),
            bytes_to_client: steps().map(|step| step.to_client.round()).collect(),
            bytes_to_backend: steps().map(|step| step.to_backend.round()).collect(),
            queue: steps().map(|step| step.queue).collect(),
            logins_failed: vec![0.0; kept.steps.len() - first],
            ..Shown::default()
        };
        for (at, outcome) in LOGIN_OUTCOMES.into_iter().enumerate() {
            let series: Vec<_> = steps().map(|step| hundredths(step.logins[at])).collect();
            if outcome == "ok" {
                shown.logins_ok = series;
            } else if series.iter().any(|rate| *rate > 0.0) {
                for (sum, rate) in shown.logins_failed.iter_mut().zip(&series) {
                    *sum += rate;
                }
                shown.logins_failed_by.insert(outcome, series);
            }
        }
        for sum in &mut shown.logins_failed {
            *sum = (*sum * 100.0).round() / 100.0;
        }
        shown.login_seconds = (first..kept.steps.len())
            .map(|at| {
                let before = at.checked_sub(MINUTE).map_or(&[][..], |before| &kept.steps[before].login_seconds);
                Quantiles::of(&kept.steps[at].login_seconds, before)
            })
            .collect();
        shown.backends = kept.backends.iter().map(|(name, steps)| (name.clone(), ShownBackend::of(steps))).collect();
        shown
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShownBackend {
    fn of(steps: &VecDeque<BackendStep>) -> Self {
        Self {
            sessions: steps.iter().map(|step| step.sessions).collect(),
            logins: steps.iter().map(|step| hundredths(step.logins)).collect(),
            is_up: steps.iter().map(|step| step.is_up).collect(),
        }
    }
}

impl Quantiles {
    /// Of what has been added to a histogram since it was as it was before.
    fn of(now: &[(f64, u64)], before: &[(f64, u64)]) -> Option<Self> {
        let before = before.iter().map(|(_, count)| *count).chain(std::iter::repeat(0));
        let buckets: Vec<_> =
            now.iter().zip(before).map(|((bound, count), before)| (*bound, count.saturating_sub(before))).collect();
        Some(Self { p50: quantile(0.5, &buckets)?, p95: quantile(0.95, &buckets)?, p99: quantile(0.99, &buckets)? })
    }
}

fn push<T>(ring: &mut VecDeque<T>, step: T, most: usize) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(step);
}

fn growth(before: &Counts, now: &Counts, of: &str, seconds: f64) -> f64 {
    let count = |counts: &Counts| counts.get(of).copied().unwrap_or_default();
    rate(count(before), count(now), seconds)
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn rate(before: u64, now: u64, seconds: f64) -> f64 {
    now.saturating_sub(before) as f64 / seconds
}

#[expect(clippy::cast_possible_truncation, reason = "seven digits are more than anybody reads")]
fn single(rate: f64) -> f32 {
    rate as f32
}

fn hundredths(rate: f32) -> f64 {
    (f64::from(rate) * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests;
