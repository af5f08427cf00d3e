//! The metric of certificates.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus::GaugeVec;

use super::families::{Families, Made};

/// The family of all certificates.
pub(super) struct Certificates {
    expiry: GaugeVec,
    /// The names under which they are shown.
    shown: Mutex<BTreeSet<String>>,
}

impl Certificates {
    pub(super) fn new(families: &Families<'_>) -> Made<Self> {
        let help = "When the certificate that clients are shown expires, seconds since 1970.";
        let expiry = families.moments("mailmux_certificate_expiry_timestamp_seconds", help, &["name"])?;
        Ok(Self { expiry, shown: Mutex::default() })
    }

    #[expect(clippy::cast_precision_loss, reason = "exact for 285 million years")]
    pub(super) fn only<'c>(&self, expiries: impl Iterator<Item = (&'c str, i64)>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut *shown);
        for (name, not_after) in expiries {
            self.expiry.with_label_values(&[name]).set(not_after as f64);
            gone.remove(name);
            shown.insert(name.to_owned());
        }
        for name in gone {
            // It is there: nobody else removes one.
            let _ = self.expiry.remove_label_values(&[&name]);
        }
    }
}
