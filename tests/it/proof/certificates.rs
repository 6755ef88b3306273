//! A certificate is renewed every 100 ms while clients shake hands, anew and by session, and ask: none fails.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::manifests::{app, tls_secret};
use crate::harness::tls::Client;
use crate::harness::*;

const PACE: Duration = Duration::from_millis(100);

#[test]
fn no_handshake_fails_while_a_certificate_is_renewed_all_the_time() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let identities: Vec<Identity> = (0..8).map(|_| authority.leaf(&["a.test"])).collect();
    let folder = Folder::new();
    let renew = |number: usize| {
        let identity = &identities[number % identities.len()];
        folder.write("secret.yaml", tls_secret("default", "a", &identity.chain_pem, &identity.key_pem));
    };
    renew(0);
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let ingress = Ingress::new("default", "a").host("a.test").prefix("/", "app", 80);
    folder.write("ingress.yaml", ingress.tls(&["a.test"], "a"));
    let portunus = Portunus::serve(&folder);
    let (over, handshakes, seen) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        let _over = Over(&over);
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let (over, handshakes, seen, authority) = (&over, &handshakes, &seen, &authority);
                let address = portunus.https;
                scope.spawn(move || {
                    let known = Client::trusting(authority);
                    while !over.load(Ordering::SeqCst) {
                        // Half of them come back with a session.
                        let client = if number % 2 == 0 { known.clone() } else { Client::trusting(authority) };
                        let (response, handshake) = client.get(address, "a.test", "a.test", "/");
                        assert_eq!(response.status, 200);
                        seen.lock().expect("seen").insert(handshake.leaf().to_vec());
                        handshakes.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for number in 1..=scale(20, 600) {
            // The pace is what is tried, and nothing waits for it.
            std::thread::sleep(PACE);
            renew(number);
            assert!(clients.iter().all(|client| !client.is_finished()), "a handshake failed");
        }
    });
    let (handshakes, seen) = (handshakes.into_inner(), seen.into_inner().expect("seen").len());
    println!("{handshakes} handshakes over {} renewals, {seen} certificates: none failed", scale(20, 600));
    assert!(handshakes > 50 && seen > 2);
    assert_eq!(portunus.metric("portunus_tls_handshakes_failed_total", &[]), 0.0);
}
