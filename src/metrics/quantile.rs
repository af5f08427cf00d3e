//! Quantiles out of the buckets of a histogram, as Prometheus' `histogram_quantile` has them. Pure.

/// The value below which this part (0 to 1) of what was observed lies, as far as the buckets tell; each of them is its upper
/// bound and how many lie below that, in rising order. `None`: nothing was observed.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 observations")]
pub fn quantile(q: f64, buckets: &[(f64, u64)]) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0)?;
    let rank = q.clamp(0.0, 1.0) * total as f64;
    // Of what lies at 0 and below nothing is in the bucket before it.
    let at = buckets.iter().position(|(_, count)| *count as f64 >= rank && *count > 0)?;
    let (from, before) = at.checked_sub(1).map_or((0.0, 0), |below| buckets[below]);
    let (to, count) = buckets[at];
    if to.is_infinite() {
        // It is longer than the last bound; how much, nobody has written down.
        return Some(from);
    }
    Some(from + (to - from) * ((rank - before as f64) / (count - before) as f64).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKETS: [(f64, u64); 4] = [(0.1, 10), (0.5, 90), (1.0, 99), (f64::INFINITY, 100)];

    #[test]
    fn it_lies_within_its_bucket_in_proportion() {
        for (q, expected) in [(0.0, 0.0), (0.05, 0.05), (0.1, 0.1), (0.5, 0.3), (0.9, 0.5), (0.99, 1.0)] {
            let found = quantile(q, &BUCKETS).expect("there are some");
            assert!((found - expected).abs() < 1e-9, "{q}: {found}, not {expected}");
        }
    }

    #[test]
    fn beyond_the_last_bound_it_is_that_bound() {
        assert_eq!(quantile(1.0, &BUCKETS), Some(1.0));
        assert_eq!(quantile(0.5, &[(f64::INFINITY, 7)]), Some(0.0));
    }

    #[test]
    fn of_nothing_there_is_none() {
        assert_eq!(quantile(0.5, &[]), None);
        assert_eq!(quantile(0.5, &[(0.1, 0), (f64::INFINITY, 0)]), None);
    }

    #[test]
    fn empty_buckets_are_passed_over() {
        assert_eq!(quantile(0.0, &[(0.1, 0), (0.2, 4), (f64::INFINITY, 4)]), Some(0.1));
        assert_eq!(quantile(1.0, &[(0.1, 0), (0.2, 4), (0.4, 4), (f64::INFINITY, 4)]), Some(0.2));
    }
}
