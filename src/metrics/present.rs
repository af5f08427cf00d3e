//! Guards: what is there for as long as they live.

use prometheus::{Histogram, IntGauge};
use tokio::time::Instant;

use super::named::Holder;

/// Counts one thing as present for as long as it lives.
#[derive(Debug)]
pub struct Present {
    gauge: IntGauge,
    _holder: Holder,
}

/// The same, and how long that was.
#[derive(Debug)]
pub struct Timed {
    _present: Present,
    since: Instant,
    seconds: Histogram,
}

impl Present {
    pub(super) fn new(gauge: &IntGauge, holder: &Holder) -> Self {
        gauge.inc();
        Self { gauge: gauge.clone(), _holder: holder.clone() }
    }

    pub(super) fn timed(self, seconds: &Histogram) -> Timed {
        Timed { _present: self, since: Instant::now(), seconds: seconds.clone() }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.seconds.observe(self.since.elapsed().as_secs_f64());
    }
}
