//! A peer that writes records by hand: what is within the keys, but outside of what any library would say.

use rustls::ConnectionTrafficSecrets;
use rustls::crypto::CryptoProvider;

use super::*;

pub(super) const HANDSHAKE: u8 = 22;
pub(super) const DATA: u8 = 23;
pub(super) const ALERT: u8 = 21;

/// Keeps the keys of a connection that it has taken apart.
pub(super) struct Forger {
    key: ::aws_lc_rs::aead::LessSafeKey,
    iv: [u8; 12],
    records: u64,
    v13: bool,
}

/// Settings whose keys are easy to use.
pub(super) fn settings(version: &'static SupportedProtocolVersion) -> Settings {
    let mut provider: CryptoProvider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("CHACHA20"));
    Settings::with(version, provider)
}

impl Forger {
    /// Takes the other side's place.
    pub(super) fn take<S: End>(pair: Pair<S>) -> (TlsStream<Wire, S>, Self) {
        let v13 = pair.far.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let secrets = pair.far.dangerous_extract_secrets().expect("enabled");
        let (records, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets.tx else { panic!("a suite") };
        let key = ::aws_lc_rs::aead::UnboundKey::new(&::aws_lc_rs::aead::CHACHA20_POLY1305, key.as_ref());
        let iv = iv.as_ref().try_into().expect("twelve bytes");
        (pair.near, Self { key: ::aws_lc_rs::aead::LessSafeKey::new(key.expect("a key")), iv, records, v13 })
    }

    pub(super) fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        self.padded(kind, content, 0)
    }

    /// A record with padding, as TLS 1.3 has it.
    pub(super) fn padded(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut sealed = content.to_vec();
        if self.v13 {
            sealed.push(kind);
            sealed.resize(sealed.len() + padding, 0);
        }
        let outer = if self.v13 { DATA } else { kind };
        let [high, low] = u16::try_from(sealed.len() + 16 * usize::from(self.v13)).expect("short").to_be_bytes();
        let header = [outer, 3, 3, high, low];
        let sequence = self.records.to_be_bytes();
        let aad = if self.v13 { header.to_vec() } else { [&sequence[..], &header].concat() };
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(sequence).for_each(|(byte, other)| *byte ^= other);
        let nonce = ::aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, ::aws_lc_rs::aead::Aad::from(aad), &mut sealed).expect("short");
        self.records += 1;
        let [high, low] = u16::try_from(sealed.len()).expect("short").to_be_bytes();
        [&[outer, 3, 3, high, low][..], &sealed].concat()
    }
}
