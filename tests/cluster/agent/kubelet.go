package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"
)

const (
	followInterval = 100 * time.Millisecond
	maxTail        = 4 << 20 // bytes of a log that tailLines looks through
)

// serveKubelet serves the kubelet's API, as far as kubectl's logs, exec and port-forward need it, to the API server alone.
func (a *Agent) serveKubelet(ctx context.Context) error {
	ca, err := os.ReadFile(a.CA)
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca)
	cert, err := tls.LoadX509KeyPair(a.Cert, a.Key)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(a.IP, strconv.Itoa(kubeletPort)))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", a.serveExec)
	mux.HandleFunc("/portForward/{namespace}/{pod}", a.servePortForward)
	server := &http.Server{
		Handler: mux,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{cert}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
			VerifyConnection: func(state tls.ConnectionState) error {
				if name := state.PeerCertificates[0].Subject.CommonName; name != "kube-apiserver-kubelet-client" {
					return fmt.Errorf("%s isn't the API server", name)
				}
				return nil
			},
		},
	}
	context.AfterFunc(ctx, func() { server.Close() })
	go func() {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			a.Say("the kubelet's API of %s: %v", a.Node, err)
		}
	}()
	return nil
}

// serveLogs answers with the log of the container's present run, or with previous=true of the one before.
func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	c, err := a.findContainer(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	query := r.URL.Query()
	previous := query.Get("previous") == "true"
	from, to, ok := c.logRange(previous)
	if !ok {
		http.Error(w, "the container hasn't run", http.StatusBadRequest)
		return
	}
	log, err := os.Open(c.logPath)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer log.Close()
	if lines, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		if from, err = tailFrom(log, from, to, lines); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	if _, err := log.Seek(from, io.SeekStart); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	if previous {
		_, _ = io.CopyN(w, log, to-from)
		return
	}
	_, _ = io.Copy(w, log)
	if query.Get("follow") == "true" {
		c.follow(r.Context(), w, log)
	}
}

// follow copies what is added to the log until the container has ended for good or the reader has left.
func (c *container) follow(ctx context.Context, w http.ResponseWriter, log io.Reader) {
	flush := http.NewResponseController(w).Flush
	for {
		// What was written before the end is read after it.
		over := closed(c.finished)
		if _, err := io.Copy(w, log); err != nil || flush() != nil || over {
			return
		}
		if !sleep(followInterval, ctx.Done()) {
			return
		}
	}
}

// logRange is the part of the log that a run wrote; a present run's end isn't known.
func (c *container) logRange(previous bool) (from, to int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	runs := len(c.logStarts)
	if previous {
		if runs < 2 {
			return 0, 0, false
		}
		return c.logStarts[runs-2], c.logStarts[runs-1], true
	}
	if runs == 0 {
		return 0, 0, false
	}
	return c.logStarts[runs-1], -1, true
}

// tailFrom is where the last lines of log[from:to] begin; to -1 is its end.
func tailFrom(log *os.File, from, to int64, lines int) (int64, error) {
	if to < 0 {
		info, err := log.Stat()
		if err != nil {
			return 0, err
		}
		to = info.Size()
	}
	from = max(from, to-maxTail)
	text := make([]byte, to-from)
	if _, err := log.ReadAt(text, from); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	for i := len(text) - 1; i >= 0; i-- {
		// The newline at the very end ends a line and begins none.
		if text[i] != '\n' || i == len(text)-1 && lines > 0 {
			continue
		}
		if lines--; lines <= 0 {
			return from + int64(i) + 1, nil
		}
	}
	return from, nil
}

// findContainer is the container that a request's path names.
func (a *Agent) findContainer(r *http.Request) (*container, error) {
	p := a.find(r.PathValue("namespace"), r.PathValue("pod"))
	if p == nil {
		return nil, fmt.Errorf("no such Pod on %s", a.Node)
	}
	for _, c := range slices.Concat(p.inits, p.mains) {
		if c.spec.Name == r.PathValue("container") {
			return c, nil
		}
	}
	return nil, fmt.Errorf("no such container in the Pod")
}
