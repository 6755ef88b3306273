"""Answers with the paths that servers in Python would serve for a request, one a line: by hand, as http.server does
(unquote and normpath), by urlsplit, and by urlparse, which knows parameters."""

import posixpath
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse, urlsplit


def served(text):
    return posixpath.normpath(unquote(text))


WAYS = [
    lambda target: target.split("?")[0],
    lambda target: served(target.split("?")[0].split("#")[0]),
    lambda target: served(urlsplit(target).path),
    lambda target: served(urlparse(target).path),
    # Carelessly: all is decoded before it is taken apart.
    lambda target: posixpath.normpath(urlparse(unquote(target)).path),
    lambda target: served(served(target.split("?")[0])),
    # As WSGI has it, in Latin-1.
    lambda target: posixpath.normpath(unquote(target.split("?")[0], "latin-1")),
]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        # http.server itself has made one slash of those at the beginning; not all do.
        target = self.raw_requestline.decode("latin-1").split(" ")[1]
        readings = set()
        for way in WAYS:
            for text in (self.path, target):
                try:
                    readings.add(way(text))
                except ValueError:
                    pass  # Such a server answers 400 or 500.
        body = "".join(reading + "\n" for reading in sorted(readings)).encode("utf-8", "replace")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
