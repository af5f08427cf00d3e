//! The binary: arguments, one subcommand, an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use mailmux::cli::Arguments;
use tikv_jemallocator::Jemalloc;

/// Of many thousand sessions each leaves small holes in memory that is in use besides. What is free of it goes back to the system
/// within seconds, by a thread of the allocator's own; glibc would keep it until the process ends.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    Arguments::parse().run()
}
