//! The load program: it knows IMAP, and not who answers. Each measurement is a command of its own (`load --help`); what all have in
//! common is said here, what a session is in `client.rs`, and what is measured in the other files.
//!
//! ```text
//! load --port PORT [--certificate FILE [--p256]] MEASUREMENT
//!     idle 2000 8000 [--concurrency 16]         sessions in IDLE: so many, then so many in all; then none
//!     logins --count 4000 [--seconds 10] [--concurrency 16] [--resume] [--beside 2000]
//!     pace --per-second 50 --seconds 60 [--resume]
//!     fetch --sessions 8 --seconds 3 [--size 67108864]
//!     append --sessions 8 --seconds 3 [--size 67108864]
//!     noop --sessions 8 --seconds 2
//! ```
//!
//! With `--certificate`, a PEM file, it speaks TLS and wants to be shown just this certificate. All peers do the same cryptography,
//! since nothing else is offered: TLS 1.3, AES-128-GCM, X25519 (`--p256`: P-256). What the certificate's signatures say
//! is not looked at: this program is to take little of the machine that it shares.
//!
//! Whoever drives it measures at the right moments: it prints `{"phase": NAME}` and then waits for a line on standard input, or
//! for its end. `ready` comes when all is set up and before what is measured, `done` after it and before anything is let go.
//! `idle` has other phases: `ready` before the first session (some have come and gone by then), `held` (with
//! `"sessions"`) at each number, `gone` when all have logged out. The last line is the result, without a phase.
//!
//! All that is not as it must be ends it with words on standard error and exit code 1: other answers than OK, other bytes than
//! those the backend sends, sessions that are closed, a handshake that is full with `--resume` (but see `resumed` in the
//! result: a peer whose processes do not share ticket keys cannot do better) or resumed without.

#![allow(clippy::disallowed_methods, reason = "no test stops the clock here, and no task outlives what it is for")]

mod bytes;
mod client;
mod idle;
mod logins;
#[path = "../pattern.rs"]
mod pattern;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use client::{Buffers, Client, Group};
use report::Wrong;

#[derive(Parser)]
#[command(about = "Drives an IMAP server or proxy on loopback, for ./run", long_about = None)]
struct Options {
    /// Where it listens, on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// The certificate it must show, as a PEM file; without one, no TLS is spoken
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// Exchange keys on P-256 and not by X25519, for a peer that can do nothing else
    #[arg(long)]
    p256: bool,
    /// So many connect, and log in or out, at a time
    #[arg(long, default_value_t = 16, global = true)]
    concurrency: usize,
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Subcommand)]
enum Measurement {
    /// Sessions in IDLE, each of its own user
    Idle {
        /// So many, then so many in all, and so on
        #[arg(required = true)]
        sessions: Vec<usize>,
    },
    /// Connects, logs in and out, as fast as it goes
    Logins(logins::Logins),
    /// Connects, logs in and out, so often a second
    Pace(logins::Pace),
    /// Downloads mails
    Fetch(bytes::Mails),
    /// Uploads mails
    Append(bytes::Mails),
    /// NOOPs, each when the last is answered
    Noop(bytes::Noops),
}

async fn measure(options: Options) -> Result<serde_json::Value, Wrong> {
    let Options { port, certificate, p256, concurrency, measurement } = options;
    let group = if p256 { Group::P256 } else { Group::X25519 };
    let client = |buffers| Client::new(port, certificate.as_deref(), group, buffers);
    match measurement {
        Measurement::Idle { sessions } => idle::idle(client(Buffers::Small)?, &sessions, concurrency).await,
        Measurement::Logins(logins) => logins.run(client(Buffers::Small)?, concurrency).await,
        Measurement::Pace(pace) => pace.run(client(Buffers::Small)?).await,
        Measurement::Fetch(mails) => mails.fetch(client(Buffers::Large)?).await,
        Measurement::Append(mails) => mails.append(client(Buffers::Large)?).await,
        Measurement::Noop(noops) => noops.run(client(Buffers::Small)?).await,
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("load: {error}");
            return ExitCode::FAILURE;
        }
    };
    let measured = runtime.block_on(measure(options));
    // Whoever waits for standard input would be waited for.
    runtime.shutdown_background();
    match measured {
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!("load: {wrong}");
            ExitCode::FAILURE
        }
    }
}
