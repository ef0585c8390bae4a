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
    match std::env::args().nth(1).as_deref() {
        Some("-v" | "--version") => return print(&concat!("tortie-cni ", env!("CARGO_PKG_VERSION"))),
        Some("-t") => return test(),
        Some(_) | None => {}
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
    let read = read(input);
    let Some(environment) = environment? else { return Ok(None) };
    read?;
    plugin::run(&environment, input)
}

fn read(input: &mut Vec<u8>) -> Result<(), Failure> {
    let read = io::stdin().lock().take(INPUT_MAX).read_to_end(input);
    read.map(drop)
        .map_err(|error| Failure::new(Code::IO, format!("read the network configuration on standard input: {error}")))
}

/// As Calico's plugin answers who installs it (CALC-21): nothing, or an error of code 100.
fn test() -> ExitCode {
    let mut input = Vec::new();
    let Err(failure) = read(&mut input).and_then(|()| plugin::test(&input)) else { return ExitCode::SUCCESS };
    print(&failure.to_json(plugin::error_version(&input)));
    ExitCode::FAILURE
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
