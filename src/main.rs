//! The `ringbearer` command: parse the command line, run one command, map its error to an exit code.

use std::process::ExitCode;

use clap::Parser;
use ringbearer::cli::{self, Cli};
use ringbearer::secret::process_environment;
use ringbearer::telemetry;

fn main() -> ExitCode {
    telemetry::watch_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help_or_usage) => return cli::show(&help_or_usage),
    };
    match cli.run(&process_environment) {
        Ok(code) => code,
        Err(failure) => cli::report(&failure),
    }
}
