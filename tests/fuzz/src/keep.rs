//! Moves a target's corpus between its text and a folder of files, which is what libFuzzer reads and writes.
//! In: `unpack TARGET FOLDER`, `pack TARGET FOLDER`, `line FILE`. Out: files; the corpus; a line to keep.
//! Invariant: the same inputs make the same text.
//! Never: leaves out an input.

use fuzz::corpus;
use std::{fs, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["unpack", target, folder] => unpack(target, Path::new(folder)),
        ["pack", target, folder] => pack(target, Path::new(folder)),
        ["line", file] => show(Path::new(file)),
        _ => Err("tortie-corpus unpack TARGET FOLDER | pack TARGET FOLDER | line FILE".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn unpack(target: &str, folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| said(folder, error))?;
    let inputs = [corpus::read(&corpus::corpus(target))?, corpus::read(&corpus::regressions(target))?].concat();
    for (number, input) in inputs.iter().enumerate() {
        let file = folder.join(format!("{number:05}"));
        fs::write(&file, input).map_err(|error| said(&file, error))?;
    }
    Ok(())
}

fn pack(target: &str, folder: &Path) -> Result<(), String> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| said(folder, error))? {
        let file = entry.map_err(|error| said(folder, error))?.path();
        inputs.push(fs::read(&file).map_err(|error| said(&file, error))?);
    }
    inputs.sort_by_key(|input| (input.len(), input.clone()));
    inputs.dedup();
    let text: String = inputs.iter().map(|input| format!("{}\n", corpus::line(input))).collect();
    let file = corpus::corpus(target);
    fs::write(&file, text).map_err(|error| said(&file, error))
}

fn show(file: &Path) -> Result<(), String> {
    println!("{}", corpus::line(&fs::read(file).map_err(|error| said(file, error))?));
    Ok(())
}

fn said(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
