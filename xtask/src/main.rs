//! Chores of this repository: `cargo xtask <chore>`. Each chore is a module and owns its arguments.

use std::process::ExitCode;

mod bench;
mod codegen;
mod fuzz;
mod python;
mod test;
mod workspace;

const USAGE: &str = "usage: cargo xtask codegen [--check | --update]
       cargo xtask test [--fast] [--faults] [--all-versions] [-k EXPR]
       cargo xtask bench [--components-cold] [--only front-door|clusters] [--rounds N]
       cargo xtask fuzz [--seconds N] [--keep] [TARGET...]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first().map(|(chore, rest)| (chore.as_str(), rest)) {
        Some(("codegen", rest)) => codegen::run(rest),
        Some(("test", rest)) => test::run(rest),
        Some(("bench", rest)) => bench::run(rest),
        Some(("fuzz", rest)) => fuzz::run(rest),
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
