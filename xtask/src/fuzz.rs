//! Coverage-guided fuzzing with libFuzzer on a stable compiler.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// What makes LLVM count the edges that an input takes and report the values it compares; the flags of cargo-fuzz, without
/// the sanitizers, which need a nightly compiler and find little in safe code.
const INSTRUMENTATION: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "--cfg=fuzzing",
];

/// Builds one target of `fuzz/` and runs it for a time on one thread.
///
/// It starts from the inputs in `fuzz/corpus/TARGET`; what it finds beyond goes to `fuzz/target/corpus/TARGET`, and an input
/// that breaks the target to `fuzz/target/artifacts/TARGET`. `PEERS_FUZZ_ARGS` holds further arguments of libFuzzer, separated by spaces.
///
/// # Errors
/// The target does not exist, does not build, or broke.
pub(crate) fn run(target: &str, seconds: u64) -> Result<()> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz");
    let source = fuzz.join("fuzz_targets").join(target).with_extension("rs");
    ensure!(source.is_file(), "no fuzz target {target}; there are: {}", targets(&fuzz)?.join(", "));
    let host = host()?;
    let target_dir = fuzz.join("target");
    let status = Command::new(cargo())
        .args(["build", "--release", "--bin", target, "--manifest-path"])
        .arg(fuzz.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        // Naming the target keeps the flags away from build scripts and procedural macros, which run in the compiler.
        .args(["--target", &host])
        .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"))
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "fuzz target {target} does not build");

    let found = target_dir.join("corpus").join(target);
    let artifacts = target_dir.join("artifacts").join(target).join("");
    std::fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
    std::fs::create_dir_all(&artifacts).with_context(|| format!("cannot create {}", artifacts.display()))?;
    let mut artifact_prefix = OsString::from("-artifact_prefix=");
    artifact_prefix.push(&artifacts);
    let status = Command::new(target_dir.join(&host).join("release").join(target))
        .arg(format!("-max_total_time={seconds}"))
        .args(["-max_len=4096", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(artifact_prefix)
        .args(std::env::var("PEERS_FUZZ_ARGS").unwrap_or_default().split_whitespace())
        .arg(found)
        .arg(fuzz.join("corpus").join(target))
        .status()
        .with_context(|| format!("cannot run fuzz target {target}"))?;
    ensure!(status.success(), "fuzz target {target} broke; the input is in {}", artifacts.display());
    Ok(())
}

/// The names of all targets, sorted.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let sources = std::fs::read_dir(fuzz.join("fuzz_targets")).context("cannot list fuzz/fuzz_targets")?;
    let mut names: Vec<_> = sources.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}

/// The triple of this machine, as the compiler names it.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(host) = text.lines().find_map(|line| line.strip_prefix("host: ")) else {
        bail!("rustc -vV names no host");
    };
    Ok(host.to_owned())
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
