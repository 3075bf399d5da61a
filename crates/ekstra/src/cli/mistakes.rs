//! What the parser refuses, in one line: what is wrong, and the nearest right thing.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Exit code of a command line that was not understood, as shells have it.
const USAGE: i32 = 2;

/// Prints it; returns the exit code.
pub(super) fn report(error: &clap::Error) -> i32 {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            error.exit_code()
        }
        _ => {
            eprintln!("ekstra: {}", line(error));
            USAGE
        }
    }
}

pub(super) fn line(error: &clap::Error) -> String {
    let what = what(error);
    match suggestion(error) {
        Some(right) => format!("{what}; a similar one is '{right}'"),
        // Where the parser does not know which command it was, it is a value, and what was said is enough.
        None if context(error, ContextKind::Usage).is_none()
            && error.kind() != ErrorKind::InvalidSubcommand =>
        {
            what
        }
        None => format!("{what}; see `{} --help`", command(error)),
    }
}

fn what(error: &clap::Error) -> String {
    let text = |kind| context(error, kind).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => format!("unexpected argument '{}'", text(ContextKind::InvalidArg)),
        ErrorKind::InvalidSubcommand => {
            format!("there is no `{} {}`", command(error), text(ContextKind::InvalidSubcommand))
        }
        ErrorKind::MissingRequiredArgument => format!("missing: {}", text(ContextKind::InvalidArg)),
        ErrorKind::MissingSubcommand => format!("`{}` what", command(error)),
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_empty() => {
            format!("{} needs a value", text(ContextKind::InvalidArg))
        }
        ErrorKind::InvalidValue => {
            let (value, argument) = (text(ContextKind::InvalidValue), text(ContextKind::InvalidArg));
            let right = text(ContextKind::ValidValue);
            format!("'{value}' is not for {argument}; there is {right}")
        }
        _ => first_line(error),
    }
}

/// Without its prefix, and with the reason of a value that was refused.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    line.strip_prefix("invalid value ")
        .map_or_else(|| line.to_owned(), |rest| format!("invalid value {rest}"))
}

fn suggestion(error: &clap::Error) -> Option<String> {
    let kinds = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue];
    kinds.into_iter().find_map(|kind| context(error, kind)).map(|all| {
        // The most similar one is the last.
        all.rsplit(", ").next().unwrap_or_default().to_owned()
    })
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        ContextValue::StyledStr(text) => Some(text.to_string()),
        _ => None,
    }
}

/// The words up to what was wrong: `ekstra create cluster`.
fn command(error: &clap::Error) -> String {
    let usage = context(error, ContextKind::Usage).unwrap_or_default();
    let words = usage.trim_start_matches("Usage:").split_whitespace();
    let words: Vec<&str> =
        words.take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    if words.is_empty() { "ekstra".to_owned() } else { words.join(" ") }
}

/// An error with its causes, but for those that the text has named already: many errors quote what they wrap.
pub(super) fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use clap::{CommandFactory, Parser};

    fn mistake(line: &str) -> String {
        let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
        let told = super::line(&error);
        assert!(!told.contains('\n'), "{line}: {told}");
        told
    }

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_are_told_in_one_line_with_what_is_right() {
        let told = [
            "ekstra create cluster --nam x",
            "ekstra create clutser",
            "ekstra craete cluster",
            "ekstra frobnicate",
            "ekstra create cluster --name x --managed --nodes -1",
            "ekstra create cluster --name x --managed --nodes two",
            "ekstra create cluster --name x --managed --region xx",
            "ekstra create cluster --name x y",
            "ekstra create cluster x y",
            "ekstra create cluster --name",
            "ekstra create cluster --managed --without-nodegroup x",
            "ekstra get nodegroup",
            "ekstra get cluster -o jsno",
            "ekstra update-kubeconfig --nam x",
            "ekstra scale nodegroup --cluster c --name n",
        ];
        let told: String = told.map(|line| format!("{line}\n    {}\n", mistake(line))).concat();
        let expected = include_str!("mistakes.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/mistakes.txt");
            std::fs::write(path, told).expect("writes");
            return;
        }
        assert_eq!(told, expected);
    }

    #[test]
    fn eksctl_s_words_are_understood() {
        for line in [
            "ekstra create cluster my-eks --managed",
            "ekstra create clusters -n my-eks --managed",
            "ekstra get cluster",
            "ekstra get clusters my-eks",
            "ekstra get nodegroups --cluster c ng",
            "ekstra get ng --cluster c",
            "ekstra delete cluster my-eks",
            "ekstra delete clusters --name my-eks",
            "ekstra delete nodegroup --cluster c ng",
            "ekstra create nodegroup --cluster c ng --managed",
            "ekstra create nodegroups --cluster c --managed",
            "ekstra scale nodegroups --cluster c ng --nodes 3",
            "ekstra update-kubeconfig my-eks",
            "ekstra create cluster x --managed --nodes 0",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        use super::told;
        #[derive(Debug, thiserror::Error)]
        #[error("nft cannot be run: {source}. Install it")]
        struct Missing {
            source: std::io::Error,
        }
        let error = anyhow::Error::new(Missing { source: std::io::Error::other("not there") });
        assert_eq!(told(&error), "nft cannot be run: not there. Install it");
        let error = error.context("the service did not start");
        assert_eq!(told(&error), "the service did not start: nft cannot be run: not there. Install it");
    }
}
