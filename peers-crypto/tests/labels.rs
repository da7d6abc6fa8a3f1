//! Every use of a signature, a hash or a derived key has a label of its own, in the whole workspace.

use std::collections::BTreeMap;
use std::path::Path;

/// The lines of every source file of the layers, up to their tests, with the crate and file they are from.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned();
    let mut sources = BTreeMap::new();
    for layer in ["wire", "crypto", "nat", "cache", "sync", "node"] {
        let mut folders = vec![root.join(format!("peers-{layer}")).join("src")];
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).expect("readable").map(|entry| entry.expect("an entry").path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if is_code(&path) {
                    let text = std::fs::read_to_string(&path).expect("text");
                    let code = text.split("\n#[cfg(test)]\nmod tests {").next().expect("a beginning").to_owned();
                    sources.insert(path.strip_prefix(&root).expect("inside").display().to_string(), code);
                }
            }
        }
    }
    sources
}

fn is_code(path: &Path) -> bool {
    let name = path.file_name().expect("a name").to_string_lossy();
    name.ends_with(".rs") && !name.contains("test") && !["vectors.rs", "fuzzing.rs"].contains(&&*name)
}

/// How a bare or keyed hash is called.
const HASHES: [&str; 4] = [" hash(&[", "(hash(&[", "*hash(&[", "keyed_hash(key, &["];

/// The labels behind `call`, with the file that each is in.
fn labels(sources: &BTreeMap<String, String>, call: &str) -> BTreeMap<String, Vec<String>> {
    let mut labels = BTreeMap::<_, Vec<_>>::new();
    for (file, code) in sources {
        for rest in code.split(call).skip(1) {
            let literal = rest.trim_start().trim_start_matches('b');
            if let Some(label) = literal.strip_prefix('"').and_then(|literal| literal.split('"').next()) {
                labels.entry(label.to_owned()).or_default().push(file.clone());
            }
        }
    }
    labels
}

#[test]
fn every_domain_of_a_signature_is_named_once() {
    let sources = sources();
    let mut domains = labels(&sources, "Domain::new(");
    domains.extend(labels(&BTreeMap::from([("keys.rs".into(), sources["peers-crypto/src/keys.rs"].clone())]), "Self::new("));
    assert!(domains.len() >= 6, "{domains:?}");
    for (domain, files) in domains {
        assert!(
            files.len() == 1 && domain.starts_with("peers ") && domain.ends_with(|last: char| last.is_ascii_digit()),
            "{domain}: {files:?}"
        );
    }
}

#[test]
fn every_label_of_a_hash_or_a_derived_key_is_of_one_file_and_of_one_kind() {
    let sources = sources();
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for (label, mut files) in HASHES.iter().flat_map(|call| labels(&sources, call)).chain(derived(&sources)) {
        files.dedup();
        all.entry(label).or_default().extend(files);
    }
    assert!(all.len() > 20, "{all:?}");
    for (label, files) in &all {
        assert_eq!(files.len(), 1, "{label}: {files:?}");
    }
}

/// The labels of derived keys: the second argument.
fn derived(sources: &BTreeMap<String, String>) -> BTreeMap<String, Vec<String>> {
    let mut labels = BTreeMap::<_, Vec<_>>::new();
    for (file, code) in sources {
        for rest in code.split("derive(").skip(1) {
            let arguments = rest.lines().next().unwrap_or_default();
            if let Some(label) = arguments.split_once(", \"").and_then(|(_, label)| label.split('"').next()) {
                labels.entry(label.to_owned()).or_default().push(file.clone());
            }
        }
    }
    labels
}

/// A derived key and a signature are made over the lengths of what goes in; a bare hash is not, and what follows a label must not make it another.
#[test]
fn no_label_of_a_bare_hash_is_the_beginning_of_another() {
    let sources = sources();
    let labels: Vec<_> = HASHES.iter().flat_map(|call| labels(&sources, call).into_keys()).collect();
    assert!(labels.len() >= 8, "{labels:?}");
    for (label, other) in labels.iter().flat_map(|label| labels.iter().map(move |other| (label, other))) {
        assert!(label == other || !other.starts_with(label.as_str()), "{label:?} begins {other:?}");
    }
}
