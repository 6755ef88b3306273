//! server-alias: more names for a host, which follow it and give way to rules.

use crate::harness::manifests::{app, documents};
use crate::harness::*;

fn shop(names: &str) -> Ingress {
    let ingress = Ingress::new("default", "shop").annotation("nginx.ingress.kubernetes.io/server-alias", names);
    ingress.host("a.test").prefix("/", "shop", 80)
}

#[test]
fn an_alias_is_served_as_its_host_is_until_a_rule_names_it() {
    let (shop_backend, other_backend) = (Backend::named("shop"), Backend::named("other"));
    let folder = Folder::new();
    let (one, other) =
        (app("default", "shop", &[shop_backend.address()]), app("default", "other", &[other_backend.address()]));
    folder.write("app.yaml", documents(&[&one, &other]));
    folder.write("shop.yaml", shop("www.a.test, *.b.test"));
    let portunus = Portunus::serve(&folder);
    let served = |host: &str, path: &str| {
        let answer = portunus.get(host, path);
        (answer.status, if answer.status == 200 { answer.text() } else { String::new() })
    };
    let by = |name: &str| (200, name.to_owned());
    for host in ["a.test", "www.a.test", "x.b.test"] {
        assert_eq!(served(host, "/cart"), by("shop"), "{host}");
    }
    assert_eq!(served("b.test", "/").0, 404);
    // Rules of other Ingresses of the host are the alias's too.
    let cart = Ingress::new("default", "cart").host("a.test").prefix("/cart", "other", 80);
    portunus.after(|| folder.write("cart.yaml", cart));
    assert_eq!((served("www.a.test", "/cart"), served("www.a.test", "/")), (by("other"), by("shop")));
    // A rule's host goes before.
    let rule = Ingress::new("default", "www").host("www.a.test").prefix("/www", "other", 80);
    portunus.after(|| folder.write("www.yaml", rule));
    assert_eq!((served("www.a.test", "/www"), served("www.a.test", "/").0), (by("other"), 404));
    portunus.wait_problem(&["server-alias", "www.a.test", "default/www, which has a rule for it"]);
    portunus.after(|| folder.remove("www.yaml"));
    assert_eq!(served("www.a.test", "/"), by("shop"));
    portunus.after(|| folder.write("shop.yaml", shop("other.test")));
    assert_eq!((served("www.a.test", "/").0, served("other.test", "/cart")), (404, by("other")));
    portunus.after(|| folder.remove("shop.yaml"));
    assert_eq!(served("other.test", "/cart").0, 404);
}
