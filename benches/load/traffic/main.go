// Command traffic is the backend, and where no ready-made tool does it the load, of the bench's cases beside plain GETs:
// gRPC, WebSocket, request bodies and chunked answers, a constant rate of requests, and connections that are only held.
//
//	traffic backend --http ADDR --h2c ADDR --chunks ADDR --status ADDR
//	traffic prove   --target ADDR --host NAME              one gRPC call of each kind; prints the metadata that arrived as JSON
//	traffic stream  --target ADDR --host NAME --seconds N  echoes over bidirectional gRPC streams
//	traffic ws      --target ADDR --host NAME --seconds N  echoes over WebSockets
//	traffic rate    --target ADDR --host NAME --seconds N --path PATH --bytes N --rate N    requests on time, whatever comes back
//	traffic hold    --target ADDR --host NAME --path PATH --bytes N --connections N [--tls] a request each, then hold them
//
// A load prints one JSON object, `wrong` empty only if every answer was right. Each runs on one OS thread's worth of Go code
// (GOMAXPROCS=1, set by the caller) and is bounded in time by --seconds, by its callers beyond that.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"
)

type options struct {
	http, h2c, chunks, status string
	target, host, path        string
	bytes, rate, connections  int
	streams                   int
	seconds                   float64
	tls                       bool
}

// result is what a load saw; latencies in microseconds.
type result struct {
	Requests int     `json:"requests"`
	Seconds  float64 `json:"seconds"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	P999     float64 `json:"p999"`
	Wrong    string  `json:"wrong"`
	// How late the load itself was with a free connection at hand: its own share in the latencies.
	Late float64 `json:"late_p99"`
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("say backend, prove, stream, ws, rate or hold"))
	}
	var o options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.http, "http", "", "address of the HTTP/1.1 backend")
	flags.StringVar(&o.h2c, "h2c", "", "address of the gRPC backend")
	flags.StringVar(&o.chunks, "chunks", "", "address of the backend that answers in 1-byte chunks")
	flags.StringVar(&o.status, "status", "", "address of the backend's own counts")
	flags.StringVar(&o.target, "target", "", "address of the proxy")
	flags.StringVar(&o.host, "host", "", "name for Host, :authority and SNI")
	flags.StringVar(&o.path, "path", "/", "path of the requests")
	flags.IntVar(&o.bytes, "bytes", 0, "bytes of a message, or of a right answer's body")
	flags.IntVar(&o.rate, "rate", 0, "requests a second")
	flags.IntVar(&o.connections, "connections", 0, "connections")
	flags.IntVar(&o.streams, "streams", 1, "streams a connection")
	flags.Float64Var(&o.seconds, "seconds", 0, "length of the load")
	flags.BoolVar(&o.tls, "tls", false, "speak TLS")
	flags.Parse(os.Args[2:])

	var err error
	switch os.Args[1] {
	case "backend":
		err = backend(o)
	case "prove":
		err = prove(o)
	case "stream":
		err = load(o, streamEchoes)
	case "ws":
		err = load(o, websocketEchoes)
	case "rate":
		err = constantRate(o)
	case "hold":
		err = hold(o)
	default:
		err = fmt.Errorf("no command %q", os.Args[1])
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "traffic:", err)
	os.Exit(1)
}

func print(r result) error {
	return json.NewEncoder(os.Stdout).Encode(r)
}

// percentile of sorted latencies, in microseconds.
func percentile(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)-1, int(float64(len(sorted))*share))]) / 1e3
}

func summary(taken []time.Duration, seconds float64) result {
	slices.Sort(taken)
	return result{Requests: len(taken), Seconds: seconds, P50: percentile(taken, 0.5), P99: percentile(taken, 0.99), P999: percentile(taken, 0.999)}
}
