//! What is wrong in a file or an object is told with its place, and affects nothing else.

use crate::harness::command::portunus;
use crate::harness::manifests::{app, documents, tls_secret};
use crate::harness::*;

const BROKEN: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: [never: closed\nspec: {}\n";

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_version() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let folder = Folder::new();
    folder.write("a.yaml", app("default", "a", &[a.address()]));
    folder.write("b.yaml", app("default", "b", &[b.address()]));
    let rule = |host: &str, service: &str| Ingress::new("default", host).host(host).prefix("/", service, 80);
    folder.write("one.yaml", rule("one.test", "a"));
    folder.write("two.yaml", rule("two.test", "a"));
    let portunus = Portunus::serve(&folder);
    folder.write("one.yaml", BROKEN);
    let problem = portunus.wait_problem(&["one.yaml"]);
    let line = problem["line"].as_u64().expect("a line");
    assert!((4..=6).contains(&line), "{problem}");
    assert!(problem["file"].as_str().is_some_and(|file| file.ends_with("one.yaml")), "{problem}");
    assert!(problem.to_string().contains("column"), "{problem}");
    portunus.stderr.wait_for("one.yaml");
    assert_eq!(portunus.get("one.test", "/").text(), "a", "the last good version");
    // All others go on.
    portunus.after(|| folder.write("two.yaml", rule("two.test", "b")));
    assert_eq!(portunus.get("two.test", "/").text(), "b");
    assert_eq!(portunus.get("one.test", "/").text(), "a");
    // Mended.
    portunus.after(|| folder.write("one.yaml", rule("one.test", "b")));
    assert_eq!(portunus.get("one.test", "/").text(), "b");
    portunus.wait_no_problems();
}

#[test]
fn a_file_that_never_parsed_stops_nothing_else() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    folder.write("broken.yaml", BROKEN);
    folder.write("binary.yaml", "\u{0}\u{1}\u{2}");
    folder.write("broken.json", "{\"kind\": ");
    folder.write("empty.yaml", "");
    let portunus = Portunus::serve(&folder);
    assert_eq!(portunus.get("a.test", "/").text(), "a");
    for name in ["broken.yaml", "binary.yaml", "broken.json"] {
        portunus.wait_problem(&[name]);
        portunus.stderr.wait_for(name);
    }
    assert_eq!(portunus.problems().len(), 3, "{:#?}", portunus.problems());
}

#[test]
fn a_bad_object_affects_no_other_not_even_in_its_file() {
    let backend = Backend::named("a");
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let good = |name: &str| Ingress::new("default", name).host(&format!("{name}.test")).prefix("/", "app", 80);
    let replace = |name: &str, from: &str, to: &str| good(name).to_string().replace(from, to);
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: rules}\n";
    let slice = Slice::new("default", "app", "slice").port("", 80).ready("127.9.9.9").to_string();
    let rows = [
        ("path-type", replace("path-type", "pathType: Prefix", "pathType: Regex")),
        ("port", replace("port", "number: 80", "number: eighty")),
        ("paths", replace("paths", "paths:", "pathz:")),
        ("host", replace("host", "host.test", "h*st.test")),
        ("rules", format!("{ingress}spec: {{rules: 7}}\n")),
        ("name", replace("no-name", "name: \"no-name\"", "labels: {}")),
        ("slice", slice.replace("127.9.9.9", "not-an-address")),
    ];
    for (name, bad) in &rows {
        let (before, after) = (good(&format!("{name}-before")), good(&format!("{name}-after")));
        folder.write(&format!("{name}.yaml"), documents(&[&before, bad, &after]));
    }
    folder.write("strange.yaml", "just a sentence\n---\nmetadata: {name: of-no-kind}\n---\n[1, 2]\n---\n");
    let portunus = Portunus::serve(&folder);
    for (name, _) in &rows {
        for host in [format!("{name}-before.test"), format!("{name}-after.test")] {
            assert_eq!(portunus.get(&host, "/").status, 200, "{host}");
        }
        let file = format!("{name}.yaml");
        let told = portunus.problems().iter().any(|problem| problem.to_string().contains(&file));
        assert!(told, "no problem names {file}: {:#?}", portunus.problems());
    }
}

#[test]
fn two_objects_of_one_name_are_a_problem_that_names_both_files() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let folder = Folder::new();
    folder.write("a.yaml", app("default", "a", &[a.address()]));
    folder.write("b.yaml", app("default", "b", &[b.address()]));
    let rule = |service: &str| Ingress::new("default", "twin").host("a.test").prefix("/", service, 80);
    folder.write("first.yaml", rule("a"));
    folder.write("second.yaml", rule("b"));
    let portunus = Portunus::serve(&folder);
    portunus.wait_problem(&["twin", "first.yaml", "second.yaml"]);
    assert_eq!(portunus.get("a.test", "/").text(), "a");
    portunus.after(|| folder.remove("first.yaml"));
    portunus.wait_no_problems();
    assert_eq!(portunus.get("a.test", "/").text(), "b");
}

#[test]
fn check_prints_every_problem_with_its_place_and_ends_with_1() {
    let backend = Backend::named("a");
    let folder = Folder::to(&backend);
    let path = folder.path().display().to_string();
    let finished = portunus(&["check", &path]);
    assert_eq!((finished.code, finished.stdout.trim()), (Some(0), "no problems in 3 objects"));
    folder.write("broken.yaml", BROKEN);
    folder.write(
        "lost.yaml",
        Ingress::new("verona", "lost").host("lost.test").prefix("/", "nobody", 80).tls(&["lost.test"], "secret"),
    );
    folder.write("secret.yaml", tls_secret("verona", "secret", "no", "PEM"));
    let finished = portunus(&["check", &path]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let lines: Vec<&str> = finished.stdout.lines().collect();
    let place = |name: &str| lines.iter().find(|line| line.contains(&format!("{name}.yaml:"))).copied();
    assert!(place("broken").is_some(), "{finished:?}");
    let lost = lines.iter().find(|line| line.contains("nobody")).expect("a line about lost.yaml");
    assert!(lost.contains("Ingress verona/lost") && lost.contains("lost.yaml:") && lost.contains("; "), "{lost}");
    let secret = place("secret").expect("a line about secret.yaml");
    assert!(secret.contains("Secret verona/secret"), "{secret}");
    for line in &lines {
        let after = line.split(".yaml:").nth(1).unwrap_or_default();
        assert!(after.starts_with(|c: char| c.is_ascii_digit()), "no line number: {line}");
    }
}
