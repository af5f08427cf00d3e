//! The whole program over real sockets: a real server in this process, clients and backends that do just what a test
//! says. What is tested of the faults that front ends like this one have had:
//!
//! | fault | where |
//! |---|---|
//! | commands pipelined in clear behind STARTTLS (CVE-2011-0411 and its kin) | `tls::what_is_sent_in_clear_behind_starttls_ends_the_session` |
//! | answers pipelined in clear behind a backend's STARTTLS (CVE-2026-1642) | `link/connect/tests.rs` |
//! | what was said before TLS counts after it | `tls::nothing_said_in_clear_counts_under_tls` |
//! | PREAUTH makes STARTTLS impossible (CVE-2020-14093) | `transcripts/backend-preauth.txt`, `link/connect/tests.rs` |
//! | STARTTLS stripped | `real/backends.py`: no STARTTLS means no login |
//! | passwords in clear, or invited in clear | `tls::before_tls_no_secret_is_invited`, `limits::plain_text_off_loopback` |
//! | other protocols on our port (ALPACA) | `tls::alpn`, `transcripts/http.txt` |
//! | sessions resumed across names or settings (CVE-2025-23419) | `tls/accept/tests.rs` |
//! | names in SNI fill memory (CVE-2017-15130) | `tls::certificates_are_chosen_by_sni`: unknown names get the default |
//! | certificates that do not verify, of backends and of clients | `tls/connect/tests.rs`, `tls/accept/tests.rs` |
//! | nesting, long lines, literals that are never sent (CVE-2026-27857, CVE-2024-34055) | `hostile`, `imap/preauth/tests.rs` |
//! | many small commands, a client that never reads | `hostile::a_client_that_never_reads_is_not_read_from` |
//! | SASL exchanges broken off or malformed disturb others (CVE-2025-59028) | `transcripts/sasl-cancelled.txt`, `hostile` |
//! | CR, LF, NUL smuggled to the backend | `transcripts/login-line-break-in-literal.txt`, `imap/secret.rs` |
//! | authorization identity dropped | `transcripts/plain-authzid.txt`, `link/tests.rs` |
//! | loose base64, loose OAuth grammar | `imap/sasl/` |
//! | users told apart by words or by time | `transcripts/unknown-user.txt`, `session/grid.rs` |
//! | brute force; victims locked out by it | `limits`, `src/limits/tests.rs` |
//! | secrets and mail seen by who looks at a session | `trace`, `imap/transcript/tests.rs` |
//! | log lines forged, passwords in logs | `process::no_line_of_the_log_can_be_forged` |
//! | PROXY headers from strangers; malformed ones | `proxy`, `proxy_header/tests.rs` |
//! | answers of a backend before the question | `link/tests.rs` (random tags) |
//! | backends that are silent, endless, broken | `hostile::every_animal_of_the_zoo`, `link/tests.rs` |
//! | a slow client holds a place for ever | `hostile::a_slow_drip_meets_the_deadline` |
//! | places that are never given back | `hostile::nothing_is_left_behind`, `limits` |

#![allow(
    clippy::expect_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests fail by panicking, and make peers of their own"
)]

#[path = "../support/mod.rs"]
mod support;

mod asked;
mod backends;
mod beginning;
mod commands;
mod doctor;
mod hostile;
mod limits;
mod metrics;
mod pool;
mod process;
mod proxy;
mod relay;
mod reload;
mod routing;
mod sessions;
mod status;
mod steering;
mod tls;
mod trace;
mod transcripts;
