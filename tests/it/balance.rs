//! How requests are spread over the endpoints of a backend.

use std::collections::BTreeSet;

use crate::harness::h1::Connection;
use crate::harness::*;

fn served(backends: &[Backend], policy: &str) -> (Folder, Portunus) {
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let folder = Folder::to_addresses(&addresses);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1", "--load-balance", policy]);
    (folder, portunus)
}

fn counts(backends: &[Backend]) -> Vec<usize> {
    backends.iter().map(Backend::count).collect()
}

#[test]
fn round_robin_gives_each_the_same() {
    let backends = ["a", "b", "c"].map(Backend::named);
    let (_folder, portunus) = served(&backends, "round_robin");
    let mut client = Connection::open(portunus.http);
    let answers: Vec<String> = (0..12).map(|_| client.get("a.test", "/").text()).collect();
    assert_eq!(counts(&backends), [4, 4, 4]);
    let turns: BTreeSet<Vec<String>> = answers.chunks(3).map(<[String]>::to_vec).collect();
    assert_eq!(turns.len(), 1, "always in the same order: {answers:?}");
}

#[test]
fn busy_endpoints_get_fewer_requests() {
    for policy in ["least_requests", "ewma"] {
        let release = Gate::new();
        let gate = release.clone();
        let slow = Backend::new(move |exchange| {
            gate.wait("the end of the test");
            exchange.ok("slow");
        });
        let backends = [slow, Backend::named("quick")];
        let (_folder, portunus) = served(&backends, policy);
        // Until the slow one has a request that stays.
        let mut held = Vec::new();
        while backends[0].count() == 0 {
            assert!(held.len() < 200, "{policy}: the slow endpoint gets nothing at all");
            let mut client = Connection::open(portunus.http);
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let before = held.len() + 1;
            eventually("the request at a backend", || {
                (counts(&backends).iter().sum::<usize>() >= before).then_some(())
            });
            held.push(client);
        }
        for _ in 0..50 {
            assert_eq!(portunus.get("a.test", "/").text(), "quick", "{policy}");
        }
        assert_eq!(backends[0].count(), 1, "{policy}");
        release.open();
    }
}

#[test]
fn a_client_stays_with_its_endpoint_under_consistent_hash() {
    let names = ["a", "b", "c", "d"];
    let backends = names.map(Backend::named);
    let folder = Folder::to_addresses(&backends.each_ref().map(Backend::address));
    let flags = ["--load-balance", "consistent_hash", "--trusted-proxies", "127.0.0.1"];
    let portunus = Portunus::serve_with(&folder, &flags);
    let ask = |client: usize| {
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.{client}\r\n\r\n");
        Connection::open(portunus.http).ask(request).text()
    };
    let homes: Vec<String> = (0..32).map(ask).collect();
    assert_eq!((0..32).map(ask).collect::<Vec<_>>(), homes, "whichever worker takes it");
    assert!(homes.iter().collect::<BTreeSet<_>>().len() >= 3, "{homes:?}");
    // One endpoint goes: its clients move, and hardly any other.
    let stay: Vec<_> = backends[..3].iter().map(Backend::address).collect();
    portunus.after(|| folder.write("app.yaml", manifests::app("default", "app", &stay)));
    let moved = (0..32).map(ask).zip(&homes).filter(|(now, before)| now != *before && *before != "d").count();
    assert!(moved <= 8, "{moved} clients moved though their endpoint stayed");
}
