//! docs/annotations.md is the table of annotations, written down: `PORTUNUS_UPDATE=1 cargo test --test it
//! annotations::` writes it again. What is said to be supported is: its example is no Problem, and a golden pair in
//! tests/translate has it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use portunus::model::ObjectName;
use portunus::translate::{ANNOTATIONS, Annotation, AnnotationStatus, Object, Resources, Settings, translate};
use serde_json::json;

use crate::harness::certificates::Authority;

const INTRODUCTION: &str = "\
# Annotations

Every annotation of the last ingress-nginx, 1.15.1, and what Portunus makes of it. All begin with `nginx.ingress.kubernetes.io/`, but for those that are Portunus's own and begin with `portunus.dev/`. This page is made from the table that the code reads (`src/translate/annotations/`); a test fails when it is stale.

| status | means |
|---|---|
| **yes** | honoured. A value that can't be read is a Problem that says what to write, and the default counts |
| not yet | a Problem; the rest of the Ingress works |
| **closes** | not honoured yet, and a route without it could be open to somebody it should be closed to: a Problem, and all routes of the Ingress answer 503 until it is gone, unless `--unsupported-annotations ignore` |
| never | as *not yet* or *closes*, and there are no plans: it means something to nginx alone |

Names that are not in this list are Problems too, and close their routes if they begin or end as those that restrict do: `auth-…`, `limit-…`, `satisfy…`, `modsecurity-…`, `enable-modsecurity…`, `enable-owasp…`, `global-rate-limit…`, `…-source-range`, `…-snippet`. Annotations with other prefixes are others' affairs, but for `kubernetes.io/ingress.class`. Values `bool` are `true` and `false`, in quotes, as YAML makes them no text otherwise.
";

fn document() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (topic, rows) in ANNOTATIONS {
        let begin = "| annotation | status | values | default | meaning |\n|---|---|---|---|---|\n";
        write!(text, "\n## {topic}\n\n{begin}").expect("a String");
        for row in *rows {
            text += &line(row);
        }
        text += &example(rows);
    }
    text
}

fn line(row: &Annotation) -> String {
    let status = match row.status {
        AnnotationStatus::Supported { .. } => "**yes**",
        AnnotationStatus::Planned if row.restricts => "**closes**",
        AnnotationStatus::Planned => "not yet",
        AnnotationStatus::Never if row.restricts => "never; **closes**",
        AnnotationStatus::Never => "never",
    };
    let aliases: String = row.aliases.iter().flat_map(|alias| [", `", alias, "`"]).collect();
    let cell = |text: &str| text.replace('|', "\\|");
    let Annotation { name, values, default, summary, .. } = row;
    format!("| `{name}`{aliases} | {status} | {} | {} | {} |\n", cell(values), cell(default), cell(summary))
}

/// An Ingress's annotations, with all of a topic that is supported.
fn example(rows: &[Annotation]) -> String {
    let mut text = String::new();
    for row in rows {
        if let AnnotationStatus::Supported { example } = row.status {
            // YAML 1.1, which kubectl reads, takes `on` for a bool.
            let word = matches!(example, "on" | "off");
            let quotes = word || example.parse::<i64>().is_ok() || example.parse::<bool>().is_ok();
            let example = if quotes { format!("\"{example}\"") } else { example.to_owned() };
            writeln!(text, "    {}: {example}", row.key()).expect("a String");
        }
    }
    if text.is_empty() { text } else { format!("\n```yaml\nmetadata:\n  annotations:\n{text}```\n") }
}

#[test]
fn the_page_is_the_table() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/annotations.md");
    let written = fs::read_to_string(&file).unwrap_or_default();
    let text = document();
    if written == text {
        return;
    }
    if crate::translate::update() {
        return fs::write(&file, text).expect("the page is written");
    }
    let differs = text.lines().zip(written.lines()).find(|(one, other)| one != other);
    panic!("docs/annotations.md is stale, at {differs:?}; PORTUNUS_UPDATE=1 writes it again");
}

/// When the certificates here are valid.
const NOW: i64 = 1_800_000_000;

/// A Secret with an authority's certificate.
fn secret(name: &str) -> k8s_openapi::api::core::v1::Secret {
    let pem = Authority::new().pem;
    let data = json!({ "ca.crt": pem, "auth": "a:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=" });
    serde_json::from_value(json!({ "metadata": { "name": name }, "stringData": data })).expect("a Secret")
}

#[test]
fn every_example_is_taken_without_a_problem() {
    for (topic, rows) in ANNOTATIONS {
        let examples = rows.iter().filter_map(|row| match row.status {
            AnnotationStatus::Supported { example } => Some((row.key(), json!(example))),
            AnnotationStatus::Planned | AnnotationStatus::Never => None,
        });
        let annotations: serde_json::Map<_, _> = examples.collect();
        let backend = json!({ "service": { "name": "app", "port": { "number": 80 } } });
        let ingress = json!({ "metadata": { "name": "app", "annotations": annotations }, "spec": { "defaultBackend": backend.clone() } });
        let service =
            json!({ "metadata": { "name": "app" }, "spec": { "clusterIP": "10.96.0.10", "ports": [{ "port": 80 }] } });
        let mut resources = Resources::default();
        resources.apply(Object::from(
            serde_json::from_value::<k8s_openapi::api::networking::v1::Ingress>(ingress).expect("an Ingress"),
        ));
        resources.apply(Object::from(
            serde_json::from_value::<k8s_openapi::api::core::v1::Service>(service).expect("a Service"),
        ));
        // What the examples name, and what the operator has to allow.
        let fields = BTreeMap::from([("x-frame-options".to_owned(), "DENY".to_owned())]);
        resources.apply(Object::ConfigMap(ObjectName::new("default", "shop-headers"), fields));
        resources.apply(Object::from_secret(secret("clients-ca"), NOW));
        resources.apply(Object::from_secret(secret("app-tls"), NOW));
        resources.apply(Object::from_secret(secret("passwords"), NOW));
        let allowed_response_headers = vec!["x-frame-options".parse().expect("a name")];
        let settings = Settings { allowed_response_headers, ..Settings::default() };
        // An alternative is one of something.
        if *topic == "Canary" {
            let main = json!({ "metadata": { "name": "main" }, "spec": { "defaultBackend": backend } });
            resources.apply(Object::from(
                serde_json::from_value::<k8s_openapi::api::networking::v1::Ingress>(main).expect("an Ingress"),
            ));
        }
        assert_eq!(translate(&mut resources, &settings).problems, [], "{topic}");
    }
}

#[test]
fn whatever_is_supported_has_a_golden_pair_for_good_and_for_bad_values() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/translate");
    let pairs: Vec<(String, String)> = fs::read_dir(folder)
        .expect("tests/translate")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(".in.yaml"))
        .map(|path| {
            let out = path.to_string_lossy().replace(".in.yaml", ".out.yaml");
            (fs::read_to_string(path).expect("a manifest"), fs::read_to_string(out).expect("an outcome"))
        })
        .collect();
    for row in ANNOTATIONS.iter().flat_map(|(_, rows)| *rows) {
        let AnnotationStatus::Supported { .. } = row.status else { continue };
        let (key, field) = (format!("{}:", row.key()), format!("annotations[{}]", row.key()));
        let good = pairs.iter().any(|(manifest, outcome)| manifest.contains(&key) && !outcome.contains(&field));
        let bad = pairs.iter().any(|(_, outcome)| outcome.contains(&field));
        assert!(good && bad, "{}: good {good}, bad {bad}", row.name);
    }
}
