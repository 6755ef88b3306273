// Answers with the paths that servers in Node would serve for a request, one a line: by hand, by Express and the
// like (decodeURIComponent and path.normalize), by the old url.parse and by the URL API.
'use strict';
const http = require('http');
const path = require('path');
const url = require('url');

const served = (text) => path.posix.normalize(decodeURIComponent(text));
const bare = (text) => text.split('/').map((segment) => segment.split(';')[0]).join('/');

const ways = [
  (target) => target.split('?')[0],
  (target) => served(target.split('?')[0]),
  // Carelessly: all is decoded before it is taken apart.
  (target) => path.posix.normalize(decodeURIComponent(target).split(/[?#]/)[0]),
  (target) => served(served(target.split('?')[0])),
  (target) => served(url.parse(target).pathname),
  (target) => new URL(target, 'http://localhost').pathname,
  (target) => served(new URL(target, 'http://localhost').pathname),
  // As servlets do.
  (target) => served(bare(target.split('?')[0])),
  (target) => bare(served(target.split('?')[0])),
];

const server = http.createServer((request, response) => {
  const readings = new Set();
  for (const way of ways) {
    try {
      readings.add(way(request.url));
    } catch {
      // Such a server answers 400.
    }
  }
  response.end([...readings, ''].join('\n'));
});
server.keepAliveTimeout = 60000;
server.listen(0, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
