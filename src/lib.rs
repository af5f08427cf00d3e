//! mailmux: an IMAP reverse proxy. It terminates TLS, reads just enough IMAP to learn who is logging in, finds that
//! user's server, logs in there, and then moves bytes both ways.
//!
//! This page is the map. A connection travels in one direction through these rooms, and no room knows the one after it:
//!
//! ```text
//! listener → admission → tls → dialogue → limits → routing → pool or link (connect, log in) → relay → record
//! ```
//!
//! [`session`] is the only place that knows the order; it calls one step after the other, and what one step gives is
//! what the next one takes. A step never imports another step. What travels between them is defined below them:
//! [`imap::Login`] (who asks, and with what), [`stream::Buffered`] (a stream and what was already read of it),
//! [`backend::Route`] (where to, and how to log in there), [`outcome`] (how a login is refused, how a session ends).
//!
//! A link that has outlived its session goes back to the [`pool`], if what was said on it leaves no doubt that it can be made
//! clean: `imap/tracker.rs` judges, [`link`] cleans, and the same user may have it again.
//!
//! Around the journey: [`probe`] looks after backends, [`sessions`] knows who is in, [`history`] what the last hour was like,
//! [`trace`] shows what one user's sessions say, [`steer`] is what operators do to a running server (reload, drain, hold, move,
//! kick, trace); [`server`] puts everything together, gives each session to one of its threads, where it stays
//! (`server/workers.rs`), and puts another configuration in place while it runs. [`process`] is what the process does to itself
//! and hands on to the next one; [`conduct`] is its life, from signal to signal. [`doctor`] walks the way of a login from outside,
//! and says what is wrong with it.
//!
//! Three rooms import no other: [`imap`] (the protocol, without I/O, clock or configuration), [`stream`] and [`config`].
//! `tests/layering.rs` holds the arrows and the one home of each outside crate, and fails when a file breaks them.
//!
//! Words: a **client** is the mail program, a **backend** the IMAP server behind us, a **session** one client connection,
//! a **link** one connection from us to a backend. There are no others for these four things.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make peers and tasks of their own"))]

// What everything stands on.
pub mod config;
pub mod imap;
pub mod metrics;
pub mod network;
pub mod notice;
pub mod outcome;
pub mod pulse;
pub mod random;
pub mod secret_file;
pub mod stream;
pub mod tally;
pub mod trace;

// The journey, in its order.
pub mod listener;
pub mod proxy_header;
pub mod origin;
pub mod admission;
pub mod tls;
pub mod dialogue;
pub mod limits;
pub mod routing;
pub mod backend;
pub mod link;
pub mod pool;
pub mod relay;
pub mod record;

// What holds the steps together, and what stands around them.
pub mod session;
pub mod sessions;
pub mod history;
pub mod server;
pub mod steer;
pub mod probe;
pub mod process;
pub mod conduct;
pub mod admin;
pub mod doctor;
pub mod cli;
