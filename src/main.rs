//! The binary: arguments, one subcommand, an exit code.

use std::process::ExitCode;

use clap::Parser;
use mailmux::cli::Arguments;

fn main() -> ExitCode {
    Arguments::parse().run()
}
