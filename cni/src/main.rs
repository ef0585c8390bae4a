//! `tortie-cni`: started by the container runtime once per command.
//! In: environment and standard input. Out: one JSON value on standard output, 0 or 1.
//! Invariant: standard output holds the result or the error object and nothing else.
//! Never: decides anything.
#![forbid(unsafe_code)]

use cni::{
    conf::Version,
    environment::Environment,
    failure::{Code, Failure},
    plugin,
};
use serde_json::Value;
use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

/// More than any runtime sends.
const INPUT_MAX: u64 = 16 << 20;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| arg == "-v" || arg == "--version") {
        return print(&concat!("tortie-cni ", env!("CARGO_PKG_VERSION")));
    }
    let mut input = Vec::new();
    match command(&mut input) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) => print(&result),
        Err(failure) => {
            print(&failure.to_json(plugin::error_version(&input)));
            ExitCode::FAILURE
        }
    }
}

fn command(input: &mut Vec<u8>) -> Result<Option<Value>, Failure> {
    let environment = Environment::read(|name| std::env::var(name).ok());
    if environment == Ok(None) {
        about();
        return Ok(None);
    }
    // Also where the environment is wrong: the error is written in the configuration's version.
    let read = io::stdin().lock().take(INPUT_MAX).read_to_end(input);
    let Some(environment) = environment? else { return Ok(None) };
    read.map_err(|error| Failure::new(Code::IO, format!("read the network configuration on standard input: {error}")))?;
    plugin::run(&environment, input)
}

/// For the human who runs it by hand (CNI-7).
fn about() {
    let versions = Version::ALL.map(Version::text).join(", ");
    eprintln!("tortie-cni {}: a CNI plugin, started by container runtimes", env!("CARGO_PKG_VERSION"));
    eprintln!("CNI protocol versions supported: {versions}");
}

fn print(value: &impl std::fmt::Display) -> ExitCode {
    match writeln!(io::stdout(), "{value}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
