//! Which backend answers: backends with names, and a GET that says which one it reached.

use super::manifests::app;
use super::{Backend, Folder, Ingress, Portunus};

/// What a GET answers: the status and the body, which is the name of the backend.
#[track_caller]
pub fn reached(portunus: &Portunus, host: &str, target: &str) -> (u16, String) {
    let response = portunus.get(host, target);
    (response.status, if response.status == 200 { response.text() } else { String::new() })
}

#[track_caller]
pub fn assert_reaches(portunus: &Portunus, host: &str, target: &str, name: &str) {
    assert_eq!(reached(portunus, host, target), (200, name.to_owned()), "{host}{target}");
}

#[track_caller]
pub fn assert_status(portunus: &Portunus, host: &str, target: &str, status: u16) {
    assert_eq!(reached(portunus, host, target).0, status, "{host}{target}");
}

/// Backends with one letter as a name each, and their Services of the same name.
pub fn letters<const N: usize>(folder: &Folder, names: [&'static str; N]) -> [Backend; N] {
    names.map(|name| {
        let backend = Backend::named(name);
        folder.write(&format!("{name}.yaml"), app("default", name, &[backend.address()]));
        backend
    })
}

/// An Ingress of the namespace `default`.
pub fn ingress(name: &str) -> Ingress {
    Ingress::new("default", name)
}

/// Everything goes to this backend, through one worker: what one request leaves behind the next
/// one finds.
pub fn one_worker(backend: &Backend) -> (Folder, Portunus) {
    let folder = Folder::to(backend);
    let portunus = Portunus::serve_with(&folder, &["--workers", "1"]);
    (folder, portunus)
}
