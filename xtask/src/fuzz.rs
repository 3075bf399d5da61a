//! `cargo xtask fuzz [--seconds N] [--keep] [TARGET...]`: inputs that nobody thought of, by libFuzzer.
//!
//! The corpus (`fuzz/corpus/TARGET`) grows where an input reaches code that none has reached; `--keep` packs what is left of it
//! without what is of no more use, as it is checked in. What breaks a target lies in `fuzz/artifacts/TARGET`, to be made a
//! test. Its instrumentation is LLVM's own, which the stable compiler hands on.

use crate::workspace::root;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGETS: [&str; 5] = ["requests", "policies", "signatures", "tokens", "documents"];
const SECONDS: u32 = 600;
/// Source: LLVM's documentation, "SanitizerCoverage"; as cargo-fuzz sets them without a sanitizer.
const INSTRUMENTED: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// The body of a GetCallerIdentity, packed by gzip.
const PACKED: [u8; 61] = [
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 115, 76, 46, 201, 204, 207, 179, 117, 79, 45, 113, 78, 204, 201, 73, 45,
    242, 76, 73, 205, 43, 201, 44, 169, 84, 11, 75, 45, 42, 6, 201, 24, 25, 24, 26, 234, 26, 152, 233, 26,
    154, 2, 0, 251, 68, 115, 177, 43, 0, 0, 0,
];
/// Of what a target says before it ends, lines.
const TAIL: usize = 40;
/// Of one input.
const LONGEST: u32 = 8192;

pub(crate) fn run(args: &[String]) -> Result<()> {
    let (mut seconds, mut keep, mut chosen) = (SECONDS, false, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.next().context("--seconds N")?.parse().context("--seconds N")?,
            "--keep" => keep = true,
            target if TARGETS.contains(&target) => chosen.push(target.to_owned()),
            other => bail!("no target {other}; there are {}", TARGETS.join(", ")),
        }
    }
    if chosen.is_empty() {
        chosen = TARGETS.map(str::to_owned).to_vec();
    }
    fuzz(&root(), &chosen, seconds, keep)
}

/// Builds the targets and runs each for so long.
fn fuzz(root: &Path, targets: &[String], seconds: u32, keep: bool) -> Result<()> {
    let fuzz = root.join("fuzz");
    // Outside of the workspace's target directory: nothing of it can be used for anything else.
    let build = fuzz.join("target");
    let built = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--target", "host-tuple", "--manifest-path"])
        .arg(fuzz.join("Cargo.toml"))
        .env("RUSTFLAGS", INSTRUMENTED)
        .env("CARGO_TARGET_DIR", &build)
        .status()?;
    if !built.success() {
        bail!("the targets cannot be built");
    }
    for target in targets {
        seed(&fuzz, target)?;
        let corpus = fuzz.join("corpus").join(target);
        let artifacts = fuzz.join("artifacts").join(target);
        fs::create_dir_all(&artifacts)?;
        let ran = Command::new(program(&build, target)?)
            .arg(&corpus)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={LONGEST}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .output()?;
        let said = String::from_utf8_lossy(&ran.stderr);
        if !ran.status.success() {
            let lines: Vec<&str> = said.lines().collect();
            let end = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            bail!("{target}: an input breaks it, in {}\n{end}", artifacts.display());
        }
        let count = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        let (count, kept) = (count.unwrap_or("?").trim(), fs::read_dir(&corpus)?.count());
        println!("fuzz {target}: {seconds} s, {count} inputs tried, {kept} in the corpus");
        if keep {
            pack(&fuzz, &program(&build, target)?, target)?;
        }
    }
    Ok(())
}

fn packed(fuzz: &Path, target: &str) -> PathBuf {
    fuzz.join("corpus").join(format!("{target}.tar.gz"))
}

/// Without inputs that reach nothing that the others do not.
fn pack(fuzz: &Path, program: &Path, target: &str) -> Result<()> {
    let corpus = fuzz.join("corpus").join(target);
    let whole = fuzz.join("corpus").join(format!("{target}.whole"));
    fs::rename(&corpus, &whole)?;
    fs::create_dir_all(&corpus)?;
    let merged = Command::new(program).arg("-merge=1").args([&corpus, &whole]).output()?;
    if !merged.status.success() {
        bail!("{target}: its corpus cannot be merged");
    }
    fs::remove_dir_all(&whole)?;
    let words = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-czf"];
    tar(fuzz, &[&words[..], &[&format!("corpus/{target}.tar.gz"), "-C", "corpus", target]].concat())
}

fn tar(fuzz: &Path, words: &[&str]) -> Result<()> {
    let done = Command::new("tar").args(words).current_dir(fuzz).status()?;
    if done.success() { Ok(()) } else { bail!("tar {} ended with {done}", words.join(" ")) }
}

/// Under the triple of this machine.
fn program(build: &Path, target: &str) -> Result<PathBuf> {
    let places = fs::read_dir(build)?.flatten().map(|entry| entry.path().join("release").join(target));
    places.into_iter().find(|path| path.is_file()).with_context(|| format!("{target} is not built"))
}

/// A first corpus: what botocore sends, the policies that AWS manages, what else is written down in tests.
fn seed(fuzz: &Path, target: &str) -> Result<()> {
    let corpus = fuzz.join("corpus").join(target);
    if !corpus.exists() && packed(fuzz, target).exists() {
        tar(fuzz, &["-xzf", &format!("corpus/{target}.tar.gz"), "-C", "corpus"])?;
    }
    fs::create_dir_all(&corpus)?;
    let read = |path: &str| -> Result<Value> {
        let path = fuzz.join("../crates").join(path);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    };
    let inputs: Vec<String> = match target {
        "requests" => list(&read("wire/tests/golden/every.json")?).iter().map(request).collect(),
        "signatures" => {
            let recorded = read("wire/tests/golden/requests.json")?;
            list(&recorded["requests"]).iter().map(|one| head(&one["request"])).collect()
        }
        "policies" => {
            let managed = read("domain/src/iam/aws_managed.json")?;
            managed.as_object().into_iter().flatten().map(|(_, policy)| policy.to_string()).collect()
        }
        "documents" => {
            fs::write(corpus.join("seed-packed"), PACKED)?;
            let role = "- rolearn: arn:aws:iam::000000000000:role/r\n  username: system:node:{{EC2PrivateDNSName}}\n  groups:\n  - system:nodes\n";
            // {"iss":"https://i","sub":"s","aud":["a"],"exp":1}
            let token = "e30.eyJpc3MiOiJodHRwczovL2kiLCJzdWIiOiJzIiwiYXVkIjpbImEiXSwiZXhwIjoxfQ.x";
            let values = r#"{"replicaCount": 3, "tolerations": [{"key": "k"}], "podDisruptionBudget": {"enabled": true, "minAvailable": "50%"}}"#;
            let yaml = "autoScaling: {enabled: true, minReplicas: 3}\npodLabels: &a\n  a: b\npodAnnotations: *a\ncorefile: |\n  .:53 {\n  }\n";
            [role, "- \"000000000000\"\n", token, "10.0.0.0/16", "one two three four", values, yaml]
                .map(str::to_owned)
                .into()
        }
        _ => {
            let recorded = read("wire/tests/golden/requests.json")?;
            let token = format!("k8s-aws-v1.{}", text(&recorded["eks_token_url"]));
            let arn = "arn:aws:sts::000000000000:assumed-role/role/session";
            [token.as_str(), arn, "2026-01-02T03:04:05Z", "20260102T030405Z", "30m", "e30.e30"]
                .map(str::to_owned)
                .into()
        }
    };
    for (number, input) in inputs.iter().enumerate() {
        fs::write(corpus.join(format!("seed-{number:03}")), input)?;
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Path and query, then the headers.
fn head(sent: &Value) -> String {
    let query = text(&sent["query"]);
    let mark = if query.is_empty() { "" } else { "?" };
    let headers = list(&sent["headers"]).iter();
    let headers: String = headers.map(|pair| format!("{}: {}\n", text(&pair[0]), text(&pair[1]))).collect();
    format!("{}{mark}{query}\n{headers}", text(&sent["path"]))
}

fn request(one: &Value) -> String {
    let sent = &one["request"];
    format!("{} {} {}\n{}", text(&one["service"]), text(&sent["method"]), head(sent), text(&sent["body"]))
}
