//! Golden pairs: each `tests/translate/NAME.in.yaml` is a folder of one manifest, and `NAME.out.yaml` what
//! becomes of it: the snapshot, and every problem as `portunus check` prints it. The first comment of a
//! manifest says what it shows; a line `# flags: …` holds flags of `check`. After a change that is meant,
//! `PORTUNUS_UPDATE=1 cargo test --test it translate::` writes the outcomes again; review what differs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::Parser;
use portunus::app;
use portunus::config::{Command, Config};
use portunus::file::{Finding, Folder};
use portunus::model::Snapshot;
use portunus::translate::{Resources, Settings, translate};
use serde::Serialize;

const IN: &str = ".in.yaml";
const OUT: &str = ".out.yaml";

/// What stands in an `.out.yaml`.
#[derive(Serialize)]
struct Outcome {
    snapshot: Snapshot,
    problems: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    line: Option<usize>,
    object: Option<String>,
    field: String,
    what: String,
    fix: String,
}

#[test]
fn every_manifest_becomes_what_its_pair_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/translate");
    let (manifests, outcomes) = (names(&folder, IN), names(&folder, OUT));
    assert!(!manifests.is_empty(), "no manifests in {}", folder.display());
    let mut failures = String::new();
    for name in &manifests {
        let manifest = fs::read_to_string(folder.join(format!("{name}{IN}"))).expect("a manifest");
        let file = folder.join(format!("{name}{OUT}"));
        let expected = fs::read_to_string(&file).unwrap_or_default();
        let outcome = outcome(&manifest);
        if outcome == expected {
            continue;
        }
        if update() {
            fs::write(&file, outcome).expect("the outcome is written");
        } else {
            writeln!(failures, "{name}{OUT}, - what it says, + what the code makes:").expect("a String");
            failures += &difference(&expected, &outcome);
        }
    }
    for orphan in outcomes.difference(&manifests) {
        writeln!(failures, "{orphan}{OUT} has no {orphan}{IN}").expect("a String");
    }
    assert!(failures.is_empty(), "\n{failures}\nPORTUNUS_UPDATE=1 writes the outcomes again");
}

#[test]
fn every_manifest_says_what_it_shows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/translate");
    for name in names(&folder, IN) {
        let manifest = fs::read_to_string(folder.join(format!("{name}{IN}"))).expect("a manifest");
        assert!(manifest.starts_with("# "), "{name}{IN} does not begin with a comment");
    }
}

#[allow(clippy::disallowed_methods, reason = "whoever changes translation asks for new outcomes")]
pub fn update() -> bool {
    std::env::var_os("PORTUNUS_UPDATE").is_some_and(|value| value == "1")
}

fn names(folder: &Path, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("tests/translate");
    let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(ending)?.to_owned());
    entries.filter_map(|entry| name(entry.expect("an entry"))).collect()
}

/// Goes the way of `portunus check`.
fn outcome(manifest: &str) -> String {
    let root = tempfile::tempdir().expect("a folder");
    fs::write(root.path().join("manifest.yaml"), manifest).expect("a manifest");
    let mut folder = Folder::open(root.path()).expect("it was made just now");
    let mut resources = Resources::default();
    folder.scan(&mut resources);
    let translation = translate(&mut resources, &settings(manifest));
    let mut findings = folder.findings();
    findings.extend(folder.locate(&translation.problems));
    findings.sort();
    let problems = findings.into_iter().map(|finding| row(finding, root.path())).collect();
    let outcome = Outcome { snapshot: translation.snapshot, problems };
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&outcome, options).expect("an outcome is plain data")
}

fn settings(manifest: &str) -> Settings {
    let flags = manifest.lines().find_map(|line| line.strip_prefix("# flags: ")).unwrap_or_default();
    let arguments = ["portunus", "check", "."].into_iter().chain(flags.split_whitespace());
    match Config::parse_from(arguments).command {
        Command::Check(check) => app::settings(&check.objects),
        other => panic!("`check` was read as {other:?}"),
    }
}

fn row(finding: Finding, root: &Path) -> Row {
    let Finding { file, line, object, field, what, fix, .. } = finding;
    assert!(file.is_none_or(|file| file == root.join("manifest.yaml")), "there is one file");
    let what = what.replace(&format!("{}/", root.display()), "");
    Row { line, object: object.map(|object| object.to_string()), field, what, fix }
}

/// The lines that differ, with a few around them.
fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    // lengths[i][j] is how many lines old[i..] and new[j..] have in common, in order.
    let mut lengths = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let longer = lengths[i + 1][j].max(lengths[i][j + 1]);
            lengths[i][j] = if old[i] == new[j] { lengths[i + 1][j + 1] + 1 } else { longer };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && lengths[i + 1][j] >= lengths[i][j + 1]) {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    let changed: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].0 != ' ').collect();
    let near = |at: usize| changed.iter().any(|changed| changed.abs_diff(at) <= 3);
    let shown = lines.iter().enumerate().filter(|(at, _)| near(*at));
    shown.fold(String::new(), |text, (_, (sign, line))| text + "  " + &format!("{sign} {line}\n"))
}

#[test]
fn a_difference_shows_the_lines_around_it() {
    let old = "a\nb\nc\nd\ne\nf\n";
    let new = "a\nb\nc\nd\nE\nf\ng\n";
    assert_eq!(difference(old, new), "    b\n    c\n    d\n  - e\n  + E\n    f\n  + g\n");
    assert_eq!(difference(old, old), "");
}
