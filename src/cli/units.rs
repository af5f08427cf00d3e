//! Numbers as people read them: bytes, spans, moments. Not here: where they stand in a table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last moment whose year has four digits.
const LAST: f64 = 253_402_300_799.0;

/// Now, in Unix seconds.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// `812 B`, `1.2 MB`, `34 GB`.
pub(super) fn bytes(count: f64) -> String {
    let (value, unit) = scaled(count, &["B", "kB", "MB", "GB", "TB", "PB", "EB"]);
    if unit == "B" || value >= 9.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// Something that happens so many times a second: `0.4`, `12`, `3.1k`.
pub(super) fn rate(per_second: f64) -> String {
    let (value, unit) = scaled(per_second, &["", "k", "M"]);
    if value >= 9.95 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

fn scaled<'a>(value: f64, units: &[&'a str]) -> (f64, &'a str) {
    let (mut value, mut at) = (value.max(0.0), 0);
    while value >= 999.5 && at + 1 < units.len() {
        value /= 1000.0;
        at += 1;
    }
    (value, units.get(at).copied().unwrap_or_default())
}

/// `12s`, `3m 20s`, `2h 5m`, `3d 4h`: the two largest units.
pub(super) fn span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0).round()).unwrap_or(Duration::MAX).as_secs();
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    let parts = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
    let two = parts.iter().skip(first).take(2).enumerate();
    let shown =
        two.filter(|(at, (count, _))| *at == 0 || *count > 0).map(|(_, (count, unit))| format!("{count}{unit}"));
    shown.collect::<Vec<_>>().join(" ")
}

/// How long something takes: `0.4 ms`, `120 ms`, `1.2 s`.
pub(super) fn latency(seconds: f64) -> String {
    let milliseconds = seconds.max(0.0) * 1000.0;
    match milliseconds {
        small if small < 9.95 => format!("{small:.1} ms"),
        middle if middle < 999.5 => format!("{middle:.0} ms"),
        large => format!("{:.1} s", large / 1000.0),
    }
}

/// `2026-11-26 14:03:22`, in UTC.
pub(super) fn moment(unix_seconds: f64) -> Option<String> {
    let since = Duration::try_from_secs_f64(unix_seconds).ok().filter(|_| unix_seconds <= LAST)?;
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH.checked_add(since)?).to_string();
    Some(text.trim_end_matches('Z').replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        let shown =
            [0.0, 812.0, 999.0, 1000.0, 1234.0, 80_400.0, 999_499.0, 999_500.0, 1_230_000.0, 5e18, -1.0].map(bytes);
        assert_eq!(
            shown,
            ["0 B", "812 B", "999 B", "1.0 kB", "1.2 kB", "80 kB", "999 kB", "1.0 MB", "1.2 MB", "5.0 EB", "0 B"]
        );
    }

    #[test]
    fn spans_have_two_units() {
        let shown = [0.0, 0.4, 12.0, 60.0, 200.0, 3600.0, 7500.0, 86_400.0, 273_600.0, -5.0].map(span);
        assert_eq!(shown, ["0s", "0s", "12s", "1m", "3m 20s", "1h", "2h 5m", "1d", "3d 4h", "0s"]);
        assert!(span(f64::MAX).ends_with('h') || span(f64::MAX).contains('d'));
    }

    #[test]
    fn rates_and_latencies_have_two_digits_or_so() {
        assert_eq!([0.0, 0.44, 12.3, 999.0, 3140.0].map(rate), ["0.0", "0.4", "12", "999", "3.1k"]);
        assert_eq!([0.0004, 0.0123, 0.12, 1.24].map(latency), ["0.4 ms", "12 ms", "120 ms", "1.2 s"]);
    }

    #[test]
    fn moments_that_are_none_are_not_shown() {
        assert_eq!(moment(1_795_703_002.5).as_deref(), Some("2026-11-26 14:23:22"));
        assert_eq!([-1.0, f64::NAN, f64::INFINITY, 1e12].map(moment), [None, None, None, None]);
    }
}
