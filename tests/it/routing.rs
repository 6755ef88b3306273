//! Which rule a host and path lead to, and how a change of the folder changes it.

use crate::harness::manifests::documents;
use crate::harness::reach::{assert_reaches, assert_status, ingress, letters, reached};
use crate::harness::*;

#[test]
fn hosts_match_exactly_then_by_one_wildcard_label_then_any() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["exact", "wild", "any", "idna"]);
    folder.write(
        "ingress.yaml",
        ingress("hosts")
            .prefix("/", "any", 80)
            .host("*.verona.test")
            .prefix("/", "wild", 80)
            .host("juliet.verona.test")
            .prefix("/", "exact", 80)
            .host("xn--mnchen-3ya.test")
            .prefix("/", "idna", 80),
    );
    let portunus = Portunus::serve(&folder);
    for (host, name) in [
        ("juliet.verona.test", "exact"),
        ("JULIET.Verona.TEST", "exact"),
        ("juliet.verona.test:8080", "exact"),
        ("juliet.verona.test.", "exact"),
        ("juliet.verona.test.:443", "exact"),
        ("nurse.verona.test", "wild"),
        ("NURSE.verona.test:80", "wild"),
        ("the.nurse.verona.test", "any"),
        ("verona.test", "any"),
        ("juliet.verona.test.example", "any"),
        ("127.0.0.1", "any"),
        ("[::1]:8080", "any"),
        ("xn--mnchen-3ya.test", "idna"),
        ("XN--MNCHEN-3YA.test", "idna"),
    ] {
        assert_reaches(&portunus, host, "/", name);
    }
}

#[test]
fn a_target_in_absolute_form_is_the_host_and_must_agree_with_it() {
    let folder = Folder::new();
    let backends = letters(&folder, ["one", "two"]);
    let rules = ingress("hosts").host("one.test").prefix("/", "one", 80);
    folder.write("ingress.yaml", rules.host("two.test").prefix("/", "two", 80));
    let portunus = Portunus::serve(&folder);
    let ask = |host: &str| {
        let request = format!("GET http://two.test/x?y HTTP/1.1\r\nHost: {host}\r\n\r\n");
        h1::Connection::open(portunus.http).ask(request)
    };
    assert_eq!(ask("one.test").status, 400, "it could be read in two ways");
    assert_eq!(backends[0].count() + backends[1].count(), 0);
    assert_eq!(ask("Two.test").text(), "two");
    let received = backends[1].only();
    assert_eq!((received.target(), received.header("host")), ("/x?y", Some("two.test")));
}

#[test]
fn paths_match_by_whole_elements_and_the_longest_wins() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["root", "foo", "bar", "exact", "loose"]);
    let rules = ingress("paths")
        .host("a.test")
        .prefix("/", "root", 80)
        .prefix("/foo", "foo", 80)
        .prefix("/foo/bar/", "bar", 80)
        .exact("/foo/bar", "exact", 80)
        .path("ImplementationSpecific", "/loose", "loose", 80);
    folder.write("ingress.yaml", rules.host("b.test").exact("/only", "exact", 80));
    let portunus = Portunus::serve(&folder);
    for (target, name) in [
        ("/", "root"),
        ("/foo", "foo"),
        ("/foo/", "foo"),
        ("/foo/x", "foo"),
        ("/foo?bar", "foo"),
        ("/foobar", "root"),
        ("/Foo", "root"),
        ("/foo/bar", "exact"),
        ("/foo/bar/", "bar"),
        ("/foo/bar/x", "bar"),
        ("/foo/barx", "foo"),
        ("//foo///bar", "exact"),
        ("/loose/x", "loose"),
    ] {
        assert_reaches(&portunus, "a.test", target, name);
    }
    assert_reaches(&portunus, "b.test", "/only?x", "exact");
    for target in ["/only/", "/only/x", "/", "/foo"] {
        assert_status(&portunus, "b.test", target, 404);
    }
}

#[test]
fn the_default_backend_takes_what_no_rule_matches() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["rule", "rest"]);
    let rules = ingress("main").host("a.test").prefix("/known", "rule", 80);
    folder.write("ingress.yaml", &rules);
    let portunus = Portunus::serve(&folder);
    assert_reaches(&portunus, "a.test", "/known", "rule");
    assert_status(&portunus, "a.test", "/unknown", 404);
    assert_status(&portunus, "b.test", "/known", 404);
    portunus.after(|| folder.write("ingress.yaml", rules.default_backend("rest", 80)));
    assert_reaches(&portunus, "a.test", "/known", "rule");
    assert_reaches(&portunus, "a.test", "/unknown", "rest");
    assert_reaches(&portunus, "b.test", "/known", "rest");
}

#[test]
fn editing_adding_and_removing_files_changes_the_routing_live() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["a", "b"]);
    folder.write("ingress.yaml", ingress("main").host("one.test").prefix("/", "a", 80));
    let portunus = Portunus::serve(&folder);
    assert_reaches(&portunus, "one.test", "/", "a");
    // Replaced by a rename.
    let to_b = ingress("main").host("one.test").prefix("/", "b", 80);
    portunus.after(|| folder.write("ingress.yaml", &to_b));
    assert_reaches(&portunus, "one.test", "/", "b");
    // Written into.
    let to_a = ingress("main").host("one.test").prefix("/", "a", 80);
    portunus.after(|| folder.overwrite("ingress.yaml", &to_a));
    eventually("a again", || (reached(&portunus, "one.test", "/").1 == "a").then_some(()));
    // Added, in a folder that was not there.
    let two = ingress("two").host("two.test").prefix("/", "b", 80);
    portunus.after(|| folder.write("deep/er/two.yml", &two));
    assert_reaches(&portunus, "two.test", "/", "b");
    // Another file in that folder.
    let three = ingress("three").host("three.test").prefix("/", "a", 80);
    portunus.after(|| folder.write("deep/er/three.yaml", &three));
    assert_reaches(&portunus, "three.test", "/", "a");
    // Removed.
    portunus.after(|| folder.remove("deep/er/two.yml"));
    assert_status(&portunus, "two.test", "/", 404);
    assert_reaches(&portunus, "one.test", "/", "a");
    assert_reaches(&portunus, "three.test", "/", "a");
}

#[test]
fn a_change_that_changes_nothing_makes_no_generation() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["a"]);
    let same = ingress("main").host("one.test").prefix("/", "a", 80);
    folder.write("ingress.yaml", &same);
    let portunus = Portunus::serve(&folder);
    let before = portunus.generation();
    folder.write("ingress.yaml", &same);
    folder.write("notes.txt", "not a manifest");
    folder.write("new.yaml", ingress("new").host("new.test").prefix("/", "a", 80));
    assert_eq!(portunus.wait_generation_above(before), before + 1);
    assert_reaches(&portunus, "new.test", "/", "a");
}

#[test]
fn the_generation_header_tells_which_table_answered() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["a"]);
    folder.write("ingress.yaml", ingress("main").prefix("/", "a", 80));
    let portunus = Portunus::serve_with(&folder, &["--generation-header"]);
    let header = |portunus: &Portunus, target: &str| {
        portunus.get("a.test", target).header("x-portunus-generation").map(str::to_owned)
    };
    assert_eq!(header(&portunus, "/"), Some(portunus.generation().to_string()));
    portunus.after(|| folder.write("ingress.yaml", ingress("main").prefix("/a", "a", 80)));
    let now = Some(portunus.generation().to_string());
    assert_eq!((header(&portunus, "/a"), header(&portunus, "/404")), (now.clone(), now));
}

#[test]
fn json_and_lists_and_several_documents_are_read() {
    let folder = Folder::new();
    let backend = Backend::named("a");
    folder.write(
        "app.json",
        format!(
            r#"{{"apiVersion":"v1","kind":"List","items":[
            {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"a","namespace":"default"}},
              "spec":{{"ports":[{{"port":80,"targetPort":8080}}]}}}},
            {{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
              "metadata":{{"name":"a-1","namespace":"default","labels":{{"kubernetes.io/service-name":"a"}}}},
              "ports":[{{"name":"","port":{}}}],"endpoints":[{{"addresses":["127.0.0.1"]}}]}}]}}"#,
            backend.port()
        ),
    );
    let one = ingress("one").host("one.test").prefix("/", "a", 80);
    let two = ingress("two").host("two.test").prefix("/", "a", 80);
    let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: ours-not}\n";
    folder.write("ingresses.yml", documents(&[&"# nothing but a comment\n", &one, &other, &two]));
    let portunus = Portunus::serve(&folder);
    assert_reaches(&portunus, "one.test", "/", "a");
    assert_reaches(&portunus, "two.test", "/", "a");
    assert_eq!(portunus.problems(), Vec::<serde_json::Value>::new());
}

#[test]
fn ingresses_of_one_host_merge_and_the_oldest_wins_a_conflict() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["a", "b", "c"]);
    let older = ingress("zeta").created("2024-01-01T00:00:00Z").host("m.test");
    let younger = ingress("alpha").created("2025-01-01T00:00:00Z").host("m.test");
    let older = older.prefix("/both", "a", 80).prefix("/old", "a", 80);
    let younger = younger.prefix("/both", "b", 80).prefix("/young", "b", 80);
    folder.write("older.yaml", &older);
    folder.write("younger.yaml", &younger);
    // Of one age: by namespace and name.
    let equal = |name: &str, service: &str| {
        let ingress = ingress(name).created("2024-06-01T00:00:00Z").host("m.test");
        ingress.prefix("/equal", service, 80)
    };
    folder.write("equal.yaml", documents(&[&equal("y", "b"), &equal("x", "c")]));
    let portunus = Portunus::serve(&folder);
    for (target, name) in [("/both", "a"), ("/old", "a"), ("/young", "b"), ("/equal", "c")] {
        assert_reaches(&portunus, "m.test", target, name);
    }
    let loser = portunus.wait_problem(&["\"alpha\"", "zeta"]);
    assert_eq!(loser["object"]["name"], "alpha", "{loser}");
    assert_eq!(loser["object"]["kind"], "Ingress", "{loser}");
    // The winner goes: the next takes over, and the Problem is gone.
    portunus.after(|| folder.remove("older.yaml"));
    assert_reaches(&portunus, "m.test", "/both", "b");
    assert_status(&portunus, "m.test", "/old", 404);
    assert!(!portunus.problems().iter().any(|p| p["object"]["name"] == "alpha"));
}
