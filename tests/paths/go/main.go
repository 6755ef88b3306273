// Answers with the paths that servers in Go would serve for a request, one a line: net/http's own reading, the
// cleaned one, and the pattern that a ServeMux finds.
package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
)

func main() {
	mux := http.NewServeMux()
	for _, pattern := range []string{"/", "/admin", "/admin/", "/admin/public/"} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, pattern)
		})
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.URL.Path)
		fmt.Fprintln(w, r.URL.EscapedPath())
		fmt.Fprintln(w, path.Clean(r.URL.Path))
		// A mux below another handler is given what that has decoded.
		if again, err := url.PathUnescape(r.URL.Path); err == nil {
			fmt.Fprintln(w, path.Clean(again))
		}
		if parsed, err := url.Parse(r.RequestURI); err == nil {
			fmt.Fprintln(w, path.Clean(parsed.Path))
		}
		found := httptest.NewRecorder()
		mux.ServeHTTP(found, r)
		// Else it is a redirect, and the client comes again.
		if body := found.Body.String(); found.Code == http.StatusOK && strings.HasPrefix(body, "/") {
			fmt.Fprint(w, body)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("listening on", listener.Addr())
	panic(http.Serve(listener, http.HandlerFunc(handler)))
}
