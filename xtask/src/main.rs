//! Chores of this repository: `cargo xtask <chore>`. Each chore is a module and owns its arguments.

use std::process::ExitCode;

mod codegen;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first().map(|(chore, rest)| (chore.as_str(), rest)) {
        Some(("codegen", rest)) => codegen::run(rest),
        _ => Err(anyhow::anyhow!("usage: cargo xtask codegen [--check | --update]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
