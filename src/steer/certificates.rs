//! Certificates: those that clients are shown.

use tokio::task::spawn_blocking;

use super::Steering;

pub use crate::tls::ServedCertificate;

impl Steering {
    /// All certificates that clients may be shown, the default first.
    pub async fn certificates(&self) -> Vec<ServedCertificate> {
        let state = self.state();
        // Thousands of them take a while.
        let read = spawn_blocking(move || {
            state.acceptor.as_ref().map(|acceptor| acceptor.certificates().served()).unwrap_or_default()
        });
        read.await.unwrap_or_default()
    }
}
