//! The checks of continuous integration.

use std::env;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// Runs every check in turn, with its time; the first that fails ends it.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("layer edges", || check_edges(&metadata()?))?;
    step("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    step("tests", || cargo(&["test", "--workspace", "--locked"]))?;
    step("documentation", || cargo(&["doc", "--workspace", "--no-deps", "--locked"]))?;
    Ok(ExitCode::SUCCESS)
}

fn step(name: &str, check: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    eprintln!("== {name}");
    #[expect(clippy::disallowed_methods, reason = "measures how long a check takes")]
    let start = Instant::now();
    check().with_context(|| format!("{name} failed"))?;
    eprintln!("== {name}: ok in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program()).args(arguments).env("RUSTDOCFLAGS", "-D warnings").status()?;
    ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
    Ok(())
}

fn metadata() -> anyhow::Result<Metadata> {
    let output = Command::new(program()).args(["metadata", "--format-version", "1", "--no-deps", "--locked"]).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The cargo that runs us.
fn program() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// What is read of the output of `cargo metadata`.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
}

/// Each layer with the layers it may use, whether to run, to build or to test.
const LAYERS: [(&str, &[&str]); 6] = [
    ("peers-wire", &[]),
    ("peers-crypto", &["peers-wire"]),
    ("peers-nat", &["peers-wire", "peers-crypto"]),
    ("peers-cache", &["peers-wire", "peers-crypto"]),
    ("peers-sync", &["peers-wire", "peers-crypto"]),
    ("peers-node", &["peers-wire", "peers-crypto", "peers-nat", "peers-cache", "peers-sync"]),
];

/// Packages that may use every layer and are used by none.
const TOOLS: [&str; 2] = ["peers-tests", "xtask"];

/// External packages that only some layers may name.
const RESERVED: [(&str, &[&str]); 3] =
    [("tokio", &["peers-node"]), ("rusqlite", &["peers-sync", "peers-node"]), ("libsodium-sys-stable", &["peers-crypto"])];

/// Checks that every layer is there and depends on nothing but what it may.
fn check_edges(metadata: &Metadata) -> anyhow::Result<()> {
    for (layer, _) in LAYERS {
        ensure!(metadata.packages.iter().any(|package| package.name == layer), "{layer} is missing from the workspace");
    }
    for package in metadata.packages.iter().filter(|package| !TOOLS.contains(&package.name.as_str())) {
        let Some((layer, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == package.name) else {
            bail!("{} is neither a layer nor a tool", package.name);
        };
        for Dependency { name } in &package.dependencies {
            let internal = TOOLS.contains(&name.as_str()) || LAYERS.iter().any(|(layer, _)| layer == name);
            ensure!(!internal || allowed.contains(&name.as_str()), "{layer} must not depend on {name}");
            if let Some((_, users)) = RESERVED.iter().find(|(reserved, _)| reserved == name) {
                ensure!(users.contains(layer), "{layer} must not depend on {name}: only {} may", users.join(" and "));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace of the six layers, with `extra` among the dependencies of `layer`.
    fn workspace(layer: &str, extra: &str) -> Metadata {
        let packages: Vec<_> = LAYERS
            .iter()
            .map(|(name, allowed)| {
                let mut dependencies: Vec<_> = allowed.iter().map(|name| serde_json::json!({ "name": name, "kind": null })).collect();
                if *name == layer {
                    dependencies.push(serde_json::json!({ "name": extra, "kind": "dev" }));
                }
                serde_json::json!({ "name": name, "version": "0.1.0", "dependencies": dependencies })
            })
            .collect();
        serde_json::from_value(serde_json::json!({ "packages": packages, "version": 1 })).expect("it is as cargo writes it")
    }

    #[test]
    fn only_edges_from_right_to_left_pass() {
        for (right, (layer, allowed)) in LAYERS.iter().enumerate() {
            for (left, (other, _)) in LAYERS.iter().enumerate() {
                let checked = check_edges(&workspace(layer, other));
                assert_eq!(checked.is_ok(), allowed.contains(other), "{layer} -> {other}: {checked:?}");
                assert!(left < right || checked.is_err());
            }
        }
    }

    #[test]
    fn tokio_and_sqlite_stay_in_their_layers() {
        let passes = |layer, extra| check_edges(&workspace(layer, extra)).is_ok();
        assert!(passes("peers-node", "tokio") && passes("peers-sync", "rusqlite") && passes("peers-node", "rusqlite"));
        assert!(!passes("peers-nat", "tokio") && !passes("peers-sync", "tokio") && !passes("peers-cache", "rusqlite"));
        assert!(passes("peers-cache", "bytes"));
    }

    #[test]
    fn a_stranger_a_missing_layer_and_a_layer_that_uses_a_tool_are_refused() {
        let mut stranger = workspace("", "");
        stranger.packages.push(Package { name: "peers-util".to_owned(), dependencies: Vec::new() });
        assert!(check_edges(&stranger).is_err());
        let mut missing = workspace("", "");
        missing.packages.pop();
        assert!(check_edges(&missing).is_err());
        assert!(check_edges(&workspace("peers-node", "peers-tests")).is_err());
    }

    #[test]
    fn this_workspace_keeps_its_edges() {
        check_edges(&metadata().expect("cargo runs")).expect("every edge is allowed");
    }
}
