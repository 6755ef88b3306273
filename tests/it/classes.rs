//! Whose is an Ingress: by class, by the legacy annotation, by the default class.

use crate::harness::manifests::{documents, ingress_class};
use crate::harness::reach::{assert_reaches, assert_status, ingress, letters};
use crate::harness::*;

const OURS: &str = "portunus.dev/ingress-controller";
const LEGACY: &str = "kubernetes.io/ingress.class";

#[test]
fn only_ingresses_of_our_class_are_served() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["a"]);
    let nginx = ingress_class("nginx", "k8s.io/ingress-nginx", false);
    let ours = |default| documents(&[&ingress_class("edge", OURS, default), &nginx]);
    folder.write("classes.yaml", ours(false));
    let host = |name: &str| ingress(name).host(&format!("{name}.test")).prefix("/", "a", 80);
    let all: [Ingress; 5] = [
        host("edge").class("edge"),
        host("nginx").class("nginx"),
        host("unknown").class("unknown"),
        host("none"),
        host("legacy-nginx").annotation(LEGACY, "nginx"),
    ];
    for (index, ingress) in all.iter().enumerate() {
        folder.write(&format!("ingress-{index}.yaml"), ingress);
    }
    folder.write("legacy.yaml", host("legacy").annotation(LEGACY, "portunus"));
    let portunus = Portunus::serve(&folder);
    assert_reaches(&portunus, "edge.test", "/", "a");
    assert_reaches(&portunus, "legacy.test", "/", "a");
    for host in ["nginx.test", "unknown.test", "legacy-nginx.test", "none.test"] {
        assert_status(&portunus, host, "/", 404);
    }
    // Our class becomes the default: an Ingress without a class is ours, and no other.
    portunus.after(|| folder.write("classes.yaml", ours(true)));
    assert_reaches(&portunus, "none.test", "/", "a");
    for host in ["nginx.test", "unknown.test", "legacy-nginx.test"] {
        assert_status(&portunus, host, "/", 404);
    }
}

#[test]
fn without_any_class_in_the_folder_an_ingress_without_class_is_ours() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["a"]);
    folder.write("none.yaml", ingress("none").host("none.test").prefix("/", "a", 80));
    let portunus = Portunus::serve(&folder);
    assert_reaches(&portunus, "none.test", "/", "a");
    let nginx = ingress_class("nginx", "k8s.io/ingress-nginx", true);
    portunus.after(|| folder.write("class.yaml", &nginx));
    assert_status(&portunus, "none.test", "/", 404);
}

#[test]
fn the_names_of_class_and_controller_are_flags() {
    let folder = Folder::new();
    let _backends = letters(&folder, ["a"]);
    let mine = ingress_class("mine", "example.test/mine", false);
    folder.write("classes.yaml", documents(&[&mine, &ingress_class("edge", OURS, false)]));
    let host = |name: &str| ingress(name).host(&format!("{name}.test")).prefix("/", "a", 80);
    folder.write("mine.yaml", host("mine").class("mine"));
    folder.write("edge.yaml", host("edge").class("edge"));
    folder.write("legacy.yaml", host("legacy").annotation(LEGACY, "legacy"));
    let flags = ["--controller-class", "example.test/mine", "--ingress-class", "legacy"];
    let portunus = Portunus::serve_with(&folder, &flags);
    assert_reaches(&portunus, "mine.test", "/", "a");
    assert_reaches(&portunus, "legacy.test", "/", "a");
    assert_status(&portunus, "edge.test", "/", 404);
}
