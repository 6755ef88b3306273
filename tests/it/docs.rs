//! docs/operations.md names every flag with its default, every metric and every field of the access log, and
//! none that isn't there.

use std::collections::BTreeMap;

use crate::harness::*;

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// The rows of all tables whose first cell names something that begins so: name to row.
fn rows(prefix: &str) -> BTreeMap<String, &'static str> {
    let row = |line: &'static str| {
        let (name, _) = line.strip_prefix("| `")?.split_once("` |")?;
        name.starts_with(prefix).then(|| (name.to_owned(), line))
    };
    OPERATIONS.lines().filter_map(row).collect()
}

/// Fails with all names that only one side has.
#[track_caller]
fn assert_same<'a>(exists: impl Iterator<Item = &'a String>, documented: impl Iterator<Item = &'a String>) {
    let (mut missing, mut invented): (Vec<_>, Vec<_>) = (exists.collect(), documented.collect());
    let all = missing.clone();
    missing.retain(|name| !invented.contains(name));
    invented.retain(|name| !all.contains(name));
    assert!(!all.is_empty(), "nothing to document was found");
    assert!(missing.is_empty(), "not in docs/operations.md: {missing:?}");
    assert!(invented.is_empty(), "only in docs/operations.md: {invented:?}");
}

/// The flags of `--help` with all that it says of each, on one line.
fn flags(help: &str) -> BTreeMap<String, String> {
    let mut flags: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for line in help.lines() {
        let mut words = line.split_whitespace().peekable();
        match words.peek() {
            // The value of some may be left out.
            Some(word) if word.starts_with("--") => current = word.split("[=").next().map(str::to_owned),
            // A heading, or a flag with a short form: --help and --version.
            Some(word) if !line.starts_with(' ') || word.ends_with(',') && word.starts_with('-') => current = None,
            Some(_) | None => {}
        }
        if let Some(flag) = &current {
            let text = flags.entry(flag.clone()).or_default();
            text.extend(words.flat_map(|word| [" ", word]));
        }
    }
    flags
}

#[test]
fn every_flag_is_documented_with_its_default() {
    let flags = flags(&command::portunus(&["serve", "--help"]).stdout);
    let documented = rows("--");
    assert_same(flags.keys(), documented.keys());
    for (flag, text) in &flags {
        let variable = format!("PORTUNUS_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
        assert!(text.contains(&format!("[env: {variable}=")), "{flag} is not {variable}: {text}");
        if let Some((_, rest)) = text.split_once("[default: ") {
            let default = rest.split("] [").next().unwrap_or(rest).trim_end_matches(']');
            assert!(documented[flag].contains(default), "{flag} has the default {default}: {}", documented[flag]);
        }
    }
}

#[test]
fn every_metric_is_documented_with_its_type_and_labels() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve(&folder);
    assert_eq!(portunus.get("a.test", "/").status, 200);
    portunus.wait_metric("portunus_requests_total", &[], |count| count == 1.0);
    let text = portunus.admin("/metrics").text();
    let kind = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let suffix = if kind == "counter" { "_total" } else { "" };
        Some((format!("{name}{suffix}"), kind.to_owned()))
    };
    let metrics: BTreeMap<String, String> = text.lines().filter_map(kind).collect();
    let documented = rows("portunus_");
    assert_same(metrics.keys(), documented.keys());
    for (name, kind) in &metrics {
        assert!(documented[name].contains(&format!("| {kind} |")), "{name} is a {kind}: {}", documented[name]);
    }
    for sample in portunus.metrics().keys() {
        let Some((name, labels)) = sample.split_once('{') else { continue };
        let row = documented[name.trim_end_matches("_bucket")];
        for label in labels.split(',').filter_map(|pair| pair.split('=').next()).filter(|label| *label != "le") {
            assert!(row.contains(&format!("`{label}`")), "{name} has the label {label}: {row}");
        }
    }
}

#[test]
fn every_field_of_the_access_log_is_documented() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let portunus = Portunus::serve_with(&folder, &["--access-log", "stdout"]);
    assert_eq!(portunus.get("a.test", "/").status, 200);
    let line: serde_json::Value = serde_json::from_str(&portunus.stdout.wait_for("{")).expect("a line of JSON");
    let (_, section) = OPERATIONS.split_once("## Access log").expect("the section");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let names: Vec<&str> = cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`')).collect();
    for field in line.as_object().expect("an object").keys() {
        assert!(names.contains(&field.as_str()), "{field} is not documented: {names:?}");
    }
}
