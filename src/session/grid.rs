//! When a refusal goes out: at fixed moments after the attempt. How long a refusal took would otherwise tell an unknown
//! user, whom no backend was asked about, from a wrong password.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::outcome::Refusal;
use crate::random;

/// However long backends take over a wrong password, an unknown user does not wait longer than this for the same words.
const LONGEST_PRETENCE: Duration = Duration::from_secs(5);

/// The grid, and how long backends took of late to refuse a password.
#[derive(Debug, Clone)]
pub struct Grid {
    step: Duration,
    typical_millis: Arc<AtomicU64>,
}

impl Grid {
    /// A grid with this step.
    pub fn new(step: Duration) -> Self {
        Self { step, typical_millis: Arc::default() }
    }

    /// One with another step, which knows what this one learns.
    #[must_use]
    pub fn renewed(&self, step: Duration) -> Self {
        Self { step, typical_millis: Arc::clone(&self.typical_millis) }
    }

    /// The moment at which the refusal of an attempt that began then goes out.
    pub fn moment(&self, began: Instant, refusal: &Refusal) -> Instant {
        let took = began.elapsed();
        let pretended = match refusal {
            Refusal::BadCredentials => {
                let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                self.typical_millis.store(millis, Ordering::Relaxed);
                took
            }
            // No backend was asked; the client must not notice.
            Refusal::NoRoute | Refusal::Unsupported | Refusal::WrongPassword(..) => {
                let typical = Duration::from_millis(self.typical_millis.load(Ordering::Relaxed));
                let wanted = if let Refusal::WrongPassword(_, wait) = refusal { *wait } else { Duration::ZERO };
                took.max(typical.min(LONGEST_PRETENCE)).max(wanted)
            }
            _ => took,
        };
        began + self.rounded_up(pretended) + self.step.mul_f64(random::fraction() / 10.0)
    }

    fn rounded_up(&self, took: Duration) -> Duration {
        let steps = took.as_nanos() / self.step.as_nanos().max(1) + 1;
        self.step.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn refusals_go_out_on_the_grid() {
        let grid = Grid::new(STEP);
        for (took, steps) in [(0, 1), (499, 1), (500, 2), (2100, 5)] {
            let began = Instant::now();
            tokio::time::advance(Duration::from_millis(took)).await;
            let wait = grid.moment(began, &Refusal::BackendDown) - began;
            assert!(wait >= STEP * steps && wait <= STEP * steps + STEP / 10, "{took} ms: {wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_user_takes_as_long_as_a_wrong_password() {
        let grid = Grid::new(STEP);
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(2100)).await;
        grid.moment(began, &Refusal::BadCredentials);
        let began = Instant::now();
        let wait = grid.moment(began, &Refusal::NoRoute) - began;
        assert!(wait >= STEP * 5 && wait <= STEP * 5 + STEP / 10, "{wait:?}");
    }
}
