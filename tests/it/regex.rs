//! Hosts whose paths are regular expressions: beside the real nginx, which is what their users come from.

use crate::harness::Nginx;

#[test]
fn nginx_is_there() {
    let nginx = Nginx::start("server { listen 127.0.0.1:PORT; location / { return 200 \"$uri\"; } }");
    assert_eq!(nginx.get("a.example", "/a//b").text(), "/a/b");
}
