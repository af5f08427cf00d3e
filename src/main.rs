//! The binary: arguments, one subcommand, an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use mailmux::cli::Arguments;

fn main() -> ExitCode {
    Arguments::parse().run()
}
