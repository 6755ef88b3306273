//! sslyze (`scripts/suites.sh` installs it) finds Portunus compliant with Mozilla's intermediate profile:
//! versions, suites, groups, and the certificate, which has to be one that a public authority could have made: it
//! names its host, and is valid for no longer than a year.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::certificates::Authority;
use crate::harness::command::finish_within;
use crate::harness::manifests::{app, tls_secret};
use crate::harness::*;

const HOST: &str = "a.test";
/// It makes hundreds of handshakes, and other tests run meanwhile.
const SCAN: Duration = Duration::from_secs(300);

#[test]
fn mozillas_intermediate_profile_is_kept() {
    let backend = Backend::named("a");
    let authority = Authority::new();
    let folder = Folder::new();
    folder.write("app.yaml", app("default", "app", &[backend.address()]));
    let identity = authority.brief_leaf(&[HOST], Duration::from_secs(90 * 24 * 3600));
    folder.write("secret.yaml", tls_secret("default", "a", &identity.chain_pem, &identity.key_pem));
    let ingress = Ingress::new("default", "a").host(HOST).prefix("/", "app", 80);
    folder.write("ingress.yaml", ingress.tls(&[HOST], "a"));
    // It looks without a name, too.
    let portunus = Portunus::serve_with(&folder, &["--default-tls-certificate", "default/a"]);
    let roots = folder.beside("ca.pem");
    std::fs::write(&roots, &authority.pem).expect("ca.pem");

    let mut command = Command::new("python3");
    command.env("PYTHONPATH", suites::tool("sslyze")).args(["-m", "sslyze", "--mozilla_config=intermediate"]);
    command.arg("--certinfo_ca_file").arg(&roots);
    // The name that is asked for, and where it is.
    command.arg(format!("{HOST}:{}{{{}}}", portunus.https.port(), portunus.https.ip()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let finished = finish_within(SCAN, &mut command);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.code, Some(0), "{said}");
    assert!(finished.stdout.contains("OK - Compliant"), "{said}");
}
