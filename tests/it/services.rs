//! From a Service to its endpoints: ports, slices, conditions, IPv6, names outside the cluster.

use crate::harness::manifests::{app, documents};
use crate::harness::reach::{assert_reaches, assert_status, ingress, letters, reached};
use crate::harness::*;

#[test]
fn a_service_that_is_missing_or_has_no_ready_endpoint_is_503() {
    let folder = Folder::new();
    let backend = Backend::named("fine");
    folder.write("fine.yaml", app("default", "fine", &[backend.address()]));
    folder.write("no-slice.yaml", Service::new("default", "no-slice").port("", 80, "8080"));
    let slice = Slice::new("default", "empty", "empty-1").port("", backend.port());
    let service = Service::new("default", "empty").port("", 80, "8080");
    folder.write("empty.yaml", documents(&[&service, &slice]));
    let slice = Slice::new("default", "unready", "unready-1").port("", backend.port());
    let slice = slice.endpoint("127.0.0.1", false, false, false);
    let service = Service::new("default", "unready").port("", 80, "8080");
    folder.write("unready.yaml", documents(&[&service, &slice]));
    folder.write("elsewhere.yaml", app("elsewhere", "elsewhere", &[backend.address()]));
    folder.write(
        "ingress.yaml",
        ingress("all")
            .prefix("/fine", "fine", 80)
            .prefix("/missing", "missing", 80)
            .prefix("/no-slice", "no-slice", 80)
            .prefix("/empty", "empty", 80)
            .prefix("/unready", "unready", 80)
            .prefix("/elsewhere", "elsewhere", 80)
            .prefix("/no-port", "fine", 81)
            .prefix("/no-named-port", "fine", "nameless"),
    );
    let portunus = Portunus::serve(&folder);
    assert_reaches(&portunus, "a.test", "/fine", "fine");
    let targets = ["/missing", "/no-slice", "/empty", "/unready", "/elsewhere", "/no-port"];
    for target in targets.into_iter().chain(["/no-named-port"]) {
        assert_status(&portunus, "a.test", target, 503);
    }
    assert_eq!(backend.count(), 1);
    portunus.wait_problem(&["default/missing"]);
    // The Service appears: no change of the Ingress is needed.
    portunus.after(|| folder.write("missing.yaml", app("default", "missing", &[backend.address()])));
    assert_reaches(&portunus, "a.test", "/missing", "fine");
}

#[test]
fn ports_are_found_by_number_and_by_name() {
    let folder = Folder::new();
    let (web, side) = (Backend::named("web"), Backend::named("side"));
    let service = Service::new("default", "app").port("web", 80, "http-web").port("side", 81, "9090");
    let slice = Slice::new("default", "app", "app-1").ready("127.0.0.1");
    let slice = slice.port("side", side.port()).port("web", web.port());
    folder.write("app.yaml", documents(&[&service.headless(), &slice]));
    let rules = ingress("ports").prefix("/80", "app", 80).prefix("/web", "app", "web");
    folder.write("ingress.yaml", rules.prefix("/81", "app", 81).prefix("/side", "app", "side"));
    let portunus = Portunus::serve(&folder);
    for (target, name) in [("/80", "web"), ("/web", "web"), ("/81", "side"), ("/side", "side")] {
        assert_reaches(&portunus, "a.test", target, name);
    }
}

#[test]
fn slices_of_a_service_are_merged_and_an_endpoint_in_two_counts_once() {
    let folder = Folder::new();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let slice =
        |name: &str, backend: &Backend| Slice::new("default", "app", name).port("", backend.port()).ready("127.0.0.1");
    let service = Service::new("default", "app").port("", 80, "8080");
    let slices = [slice("app-1", &a), slice("app-2", &a), slice("app-3", &b)];
    folder.write("app.yaml", documents(&[&service, &slices[0], &slices[1], &slices[2]]));
    folder.write("ingress.yaml", ingress("all").prefix("/", "app", 80));
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    for _ in 0..12 {
        assert_status(&portunus, "a.test", "/", 200);
    }
    assert_eq!((a.count(), b.count()), (6, 6), "round robin over two endpoints");
}

#[test]
fn endpoints_that_terminate_are_used_only_while_none_is_ready() {
    let folder = Folder::new();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let write = |a_ready: bool, b_serving: bool| {
        let service = Service::new("default", "app").port("", 80, "8080");
        let one = Slice::new("default", "app", "app-1").port("", a.port());
        let one = one.endpoint("127.0.0.1", a_ready, a_ready, false);
        let two = Slice::new("default", "app", "app-2").port("", b.port());
        let two = two.endpoint("127.0.0.1", false, b_serving, true);
        folder.write("app.yaml", documents(&[&service, &one, &two]));
    };
    write(true, true);
    folder.write("ingress.yaml", ingress("all").prefix("/", "app", 80));
    let portunus = Portunus::serve(&folder);
    for _ in 0..6 {
        assert_reaches(&portunus, "a.test", "/", "a");
    }
    portunus.after(|| write(false, true));
    for _ in 0..6 {
        assert_reaches(&portunus, "a.test", "/", "b");
    }
    portunus.after(|| write(false, false));
    assert_status(&portunus, "a.test", "/", 503);
    portunus.after(|| write(true, false));
    assert_reaches(&portunus, "a.test", "/", "a");
}

#[test]
fn endpoints_and_listeners_may_be_ipv6() {
    let folder = Folder::new();
    let backend = Backend::on("[::1]:0", |exchange| exchange.ok("six"));
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write("ingress.yaml", ingress("all").prefix("/", "app", 80));
    let listeners = ["--http-listen", "[::1]:0", "--http-listen", "127.0.0.1:0", "--http-listen", "[::]:0"];
    let portunus = Portunus::serve_with(&folder, &listeners);
    let addresses = portunus.addresses("http");
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    let dual = addresses.iter().find(|address| address.ip().is_unspecified()).expect("[::]").port();
    let loopback = addresses.iter().filter(|address| address.ip().is_loopback()).copied();
    let both = [([127, 0, 0, 1], dual).into(), (std::net::Ipv6Addr::LOCALHOST, dual).into()];
    for address in loopback.chain(both) {
        assert_eq!(h1::get(address, "a.test", "/").text(), "six", "{address}");
    }
    let clients: Vec<_> = backend.requests().iter().map(|r| r.header("x-real-ip").map(str::to_owned)).collect();
    let clients: Vec<_> = clients.into_iter().map(Option::unwrap_or_default).collect();
    // A client over IPv4 on a dual-stack socket is an IPv4 client.
    assert_eq!(clients.iter().filter(|client| *client == "127.0.0.1").count(), 2, "{clients:?}");
    assert_eq!(clients.iter().filter(|client| *client == "::1").count(), 2, "{clients:?}");
}

#[test]
fn external_names_are_refused_unless_allowed() {
    let folder = Folder::new();
    let backend = Backend::named("a");
    let port = backend.port();
    let service = Service::new("default", "out").external_name("localhost");
    folder.write("out.yaml", service.port("", port, &port.to_string()));
    folder.write("ingress.yaml", ingress("all").prefix("/", "out", port));
    let portunus = Portunus::serve(&folder);
    assert_status(&portunus, "a.test", "/", 503);
    portunus.wait_problem(&["out", "--allow-external-names"]);
    drop(portunus);
    let portunus = Portunus::serve_with(&folder, &["--allow-external-names"]);
    // Resolved in the background, so not at once.
    eventually("the name resolved", || (reached(&portunus, "a.test", "/").0 == 200).then_some(()));
    assert_eq!(portunus.problems(), Vec::<serde_json::Value>::new());
}

#[test]
fn a_resource_backend_is_a_problem_and_the_other_paths_go_on() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["a"]);
    let resource = "      - path: /files\n        pathType: Prefix\n        backend:\n          resource: \
                    {apiGroup: example.test, kind: Bucket, name: files}\n";
    let text = ingress("main").prefix("/", "a", 80).to_string();
    folder.write("ingress.yaml", text + resource);
    let portunus = Portunus::serve(&folder);
    assert_reaches(&portunus, "a.test", "/", "a");
    let problem = portunus.wait_problem(&["resource"]);
    assert_eq!(problem["object"]["name"], "main", "{problem}");
    assert_status(&portunus, "a.test", "/files", 503);
}
