//! The whole program over real sockets: a real server in this process, clients and backends that do just what a test
//! says.

#[path = "../support/mod.rs"]
mod support;

mod transcripts;
