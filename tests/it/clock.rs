//! A clock that somebody sets, by a flag that debug builds have: traffic goes on, certificates are judged by what time it
//! is now, and it is said and counted.

use std::time::Duration;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::manifests::{app, tls_secret};
use crate::harness::tls::Client;
use crate::harness::*;

const JUMPS: &str = "portunus_clock_jumps_total";

#[test]
fn when_the_clock_is_set_traffic_goes_on_and_certificates_are_judged_anew() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    // One for all times, and one that was made an hour ago.
    let (old, renewed) = (authority.leaf(&["a.test"]), authority.brief_leaf(&["a.test"], Duration::from_secs(7200)));
    let folder = Folder::new();
    let store = |identity: &Identity| {
        folder.write("secret.yaml", tls_secret("default", "a", &identity.chain_pem, &identity.key_pem));
    };
    store(&old);
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    folder.write(
        "ingress.yaml",
        Ingress::new("default", "a").host("a.test").prefix("/", "app", 80).tls(&["a.test"], "a"),
    );
    let shift = folder.beside("shift");
    let portunus = Portunus::serve_with(&folder, &["--clock-shift-file", shift.to_str().expect("a path")]);
    portunus.wait_no_problems();
    let (mut open, _) = Client::trusting(&authority).connect(portunus.https, "a.test");
    let mut serves = |identity: &Identity| {
        let (mut connection, handshake) = Client::trusting(&authority).connect(portunus.https, "a.test");
        assert_eq!(handshake.leaf(), &identity.leaf);
        assert_eq!(connection.get("a.test", "/").text(), "a");
        assert_eq!(open.get("a.test", "/").text(), "a", "one that was open goes on");
    };
    let set = |seconds: i64, direction: &str, count: f64| {
        std::fs::write(&shift, seconds.to_string()).expect("the shift");
        portunus.wait_metric(JUMPS, &[&format!("direction=\"{direction}\"")], |jumps| jumps == count);
    };

    // The clock is two hours behind when the renewal comes.
    set(-7200, "back", 1.0);
    let line = portunus.stderr.wait_for("clock was set");
    assert!(line.contains("WARN") && line.contains("back"), "{line}");
    store(&renewed);
    portunus.wait_problem(&["Secret", "is valid only from"]);
    serves(&old);
    set(0, "ahead", 1.0);
    portunus.wait_no_problems();
    serves(&renewed);
    // It was never as late as this.
    set(100_000_000, "ahead", 2.0);
    portunus.wait_problem(&["Secret", "expired on"]);
    serves(&renewed);
    set(0, "back", 2.0);
    portunus.wait_no_problems();
    serves(&renewed);
}
