package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// What has been counted, for the proof that a load's figures are about answers of this backend.
var accepted, requests, bodyBytes atomic.Int64

const chunks = 256

// The same answer twice: a write for each byte, as tokens and events come, or all in one write.
var (
	chunkedHead = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
	oneChunk    = []byte("1\r\nx\r\n")
	lastChunk   = []byte("0\r\n\r\n")
	burst       = bytes.Join([][]byte{chunkedHead, bytes.Repeat(oneChunk, chunks), lastChunk}, nil)
)

// counting counts the connections that come in.
type counting struct{ net.Listener }

func (c counting) Accept() (net.Conn, error) {
	connection, err := c.Listener.Accept()
	if err == nil {
		accepted.Add(1)
	}
	return connection, err
}

func listen(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	return counting{listener}, err
}

func backend(o options) error {
	plain, err := listen(o.http)
	if err != nil {
		return err
	}
	h2c, err := listen(o.h2c)
	if err != nil {
		return err
	}
	split, err := listen(o.chunks)
	if err != nil {
		return err
	}
	ended := make(chan error, 4)
	go func() { ended <- serveChunked(split) }()
	go func() { ended <- http.Serve(plain, routes()) }()
	go func() { ended <- grpcServer().Serve(h2c) }()
	go func() { ended <- http.ListenAndServe(o.status, http.HandlerFunc(counts)) }()
	return <-ended
}

func counts(w http.ResponseWriter, _ *http.Request) {
	json.NewEncoder(w).Encode(map[string]int64{"accepted": accepted.Load(), "requests": requests.Load(), "body_bytes": bodyBytes.Load()})
}

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/app/1k", fixed(1<<10))
	mux.HandleFunc("/app/1m", fixed(1<<20))
	mux.HandleFunc("/app/headers", func(w http.ResponseWriter, r *http.Request) {
		w.Write(headers(r))
	})
	mux.HandleFunc("/app/post", func(w http.ResponseWriter, r *http.Request) {
		taken, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return // the proxy broke off; the counts will not fit
		}
		requests.Add(1)
		bodyBytes.Add(taken)
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "%010d", taken)
	})
	mux.HandleFunc("/app/ws", echo)
	return mux
}

// headers are the request's, by their names in small letters, as JSON.
func headers(r *http.Request) []byte {
	seen := map[string]string{"host": r.Host}
	for name, values := range r.Header {
		seen[strings.ToLower(name)] = values[0]
	}
	text, _ := json.Marshal(seen) // strings always marshal
	return text
}

func fixed(size int) http.HandlerFunc {
	body := bytes.Repeat([]byte("x"), size)
	return func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Write(body)
	}
}

// serveChunked is a server of its own, since net/http would gather the bytes into larger chunks.
func serveChunked(listener net.Listener) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			for reader := bufio.NewReader(connection); ; {
				request, err := http.ReadRequest(reader)
				if err != nil {
					return // closed, or not HTTP: either shows in the counts
				}
				if err := answer(connection, request); err != nil {
					return
				}
			}
		}()
	}
}

func answer(connection net.Conn, request *http.Request) error {
	requests.Add(1)
	switch request.URL.Path {
	case "/app/headers":
		seen := headers(request)
		_, err := fmt.Fprintf(connection, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(seen), seen)
		return err
	case "/app/burst":
		_, err := connection.Write(burst)
		return err
	case "/app/chunks":
		if _, err := connection.Write(chunkedHead); err != nil {
			return err
		}
		for range chunks {
			if _, err := connection.Write(oneChunk); err != nil {
				return err
			}
		}
		_, err := connection.Write(lastChunk)
		return err
	default:
		return fmt.Errorf("no path %s", request.URL.Path)
	}
}

var upgrader = websocket.Upgrader{ReadBufferSize: 4096, WriteBufferSize: 4096}

func echo(w http.ResponseWriter, r *http.Request) {
	socket, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // it has answered
	}
	defer socket.Close()
	for {
		kind, message, err := socket.ReadMessage()
		if err != nil {
			return
		}
		requests.Add(1)
		if err := socket.WriteMessage(kind, message); err != nil {
			return
		}
	}
}

// raw carries messages as they are: what is inside them is nobody's work here.
type raw struct{}

func (raw) Name() string { return "raw" }

func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append((*message.(*[]byte))[:0], data...)
	return nil
}

// grpcServer serves the service `app`, so that its methods are paths below /app/ like those of the other cases.
func grpcServer() *grpc.Server {
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.MaxConcurrentStreams(1000))
	unary := func(name string, handle func(context.Context, []byte) []byte) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var message []byte
			if err := decode(&message); err != nil {
				return nil, err
			}
			message = handle(ctx, message)
			return &message, nil
		}}
	}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "app",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary("Echo", func(_ context.Context, message []byte) []byte {
				requests.Add(1)
				return message
			}),
			unary("Headers", metadataSeen),
		},
		Streams: []grpc.StreamDesc{{StreamName: "Stream", Handler: streamEcho, ServerStreams: true, ClientStreams: true}},
	}, nil)
	return server
}

func metadataSeen(ctx context.Context, _ []byte) []byte {
	seen := map[string]string{}
	given, _ := metadata.FromIncomingContext(ctx)
	for name, values := range given {
		seen[name] = values[0]
	}
	seen["host"] = seen[":authority"]
	text, _ := json.Marshal(seen) // strings always marshal
	return text
}

func streamEcho(_ any, stream grpc.ServerStream) error {
	var message []byte
	for {
		if err := stream.RecvMsg(&message); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		requests.Add(1)
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}
