package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// stringList is a flag that may be given many times.
type stringList []string

func (l *stringList) String() string { return strings.Join(*l, ",") }

func (l *stringList) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// answer is what the echo server says of a request.
type answer struct {
	Pod       string              `json:"pod"`
	Namespace string              `json:"namespace"`
	Name      string              `json:"name"`
	Method    string              `json:"method"`
	Path      string              `json:"path"`
	Host      string              `json:"host"`
	Proto     string              `json:"proto"`
	Remote    string              `json:"remote"`
	Local     string              `json:"local"`
	Headers   map[string][]string `json:"headers"`
	Body      string              `json:"body,omitempty"`
}

// maxBody of a request is told back; what is longer is read and cut.
const maxBody = 64 << 10

type echo struct {
	name         string
	ready        time.Time
	notReadyFile string
	draining     atomic.Bool
}

// runEcho is the image `echo`: an HTTP/1.1 and h2c server that tells what it was asked.
func runEcho(args []string) error {
	flags := flag.NewFlagSet("echo", flag.ExitOnError)
	var listens stringList
	flags.Var(&listens, "listen", "ADDR:PORT, may be repeated (default :8080)")
	name := flags.String("name", "", "its name in answers")
	notReadyFile := flags.String("not-ready-file", "", "/healthz fails while this file is there")
	readyAfter := flags.Int("ready-after", 0, "milliseconds during which /healthz fails")
	keepListening := flags.Int("linger", 0, "milliseconds to go on serving after SIGTERM, with /healthz failing")
	_ = flags.Parse(args)
	if len(listens) == 0 {
		listens = stringList{":8080"}
	}

	e := &echo{name: *name, ready: time.Now().Add(time.Duration(*readyAfter) * time.Millisecond), notReadyFile: *notReadyFile}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: e, Protocols: protocols, ReadHeaderTimeout: time.Minute}
	failed := make(chan error, len(listens))
	for _, listen := range listens {
		listener, err := net.Listen("tcp", listen)
		if err != nil {
			return err
		}
		fmt.Printf("listening on %s\n", listener.Addr())
		go func() {
			if err := server.Serve(listener); err != http.ErrServerClosed {
				failed <- err
			}
		}()
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-failed:
		return err
	case <-ended:
	}
	e.draining.Store(true)
	time.Sleep(time.Duration(*keepListening) * time.Millisecond)
	fmt.Println("draining")
	// The kubelet's SIGKILL is the limit that counts; this one is for those who start it by hand.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return server.Shutdown(ctx)
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if delay, err := strconv.Atoi(query.Get("delay")); err == nil {
		select {
		case <-time.After(time.Duration(delay) * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
	switch r.URL.Path {
	case "/healthz":
		e.health(w)
	case "/big":
		big(w, query.Get("bytes"))
	default:
		e.tell(w, r, query.Get("status"))
	}
}

func (e *echo) health(w http.ResponseWriter) {
	_, err := os.Stat(e.notReadyFile)
	if e.draining.Load() || time.Now().Before(e.ready) || err == nil {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// big answers with as many bytes as were asked for.
func big(w http.ResponseWriter, bytes string) {
	left, err := strconv.Atoi(bytes)
	if err != nil || left < 0 {
		http.Error(w, "want ?bytes=N", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(left))
	w.Header().Set("Content-Type", "application/octet-stream")
	chunk := make([]byte, 64<<10)
	for left > 0 {
		n, err := w.Write(chunk[:min(left, len(chunk))])
		if err != nil {
			return
		}
		left -= n
	}
}

func (e *echo) tell(w http.ResponseWriter, r *http.Request, status string) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, maxBody))
	_, _ = io.Copy(io.Discard, r.Body)
	pod := os.Getenv("POD_NAME")
	if pod == "" {
		pod, _ = os.Hostname()
	}
	told := answer{
		Pod: pod, Namespace: os.Getenv("POD_NAMESPACE"), Name: e.name,
		Method: r.Method, Path: r.RequestURI, Host: r.Host, Proto: r.Proto, Remote: r.RemoteAddr,
		Headers: r.Header, Body: string(body),
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		told.Local = local.String()
	}
	w.Header().Set("Content-Type", "application/json")
	if code, err := strconv.Atoi(status); err == nil && code >= 200 && code <= 599 {
		w.WriteHeader(code)
	}
	_ = json.NewEncoder(w).Encode(told)
}
