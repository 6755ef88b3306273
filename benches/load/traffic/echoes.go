package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

const answerLimit = 10 * time.Second

// load runs an echo on each connection and stream, one message under way on each, until the time is up.
func load(o options, connect func(options) ([]func([]byte) ([]byte, error), error)) error {
	var echoes []func([]byte) ([]byte, error)
	for range o.connections {
		more, err := connect(o)
		if err != nil {
			return err
		}
		echoes = append(echoes, more...)
	}
	type outcome struct {
		taken []time.Duration
		err   error
	}
	outcomes := make(chan outcome, len(echoes))
	begun := time.Now()
	end := begun.Add(time.Duration(o.seconds * float64(time.Second)))
	for i, echo := range echoes {
		go func() {
			taken, err := echoUntil(end, echo, i, o.bytes)
			outcomes <- outcome{taken, err}
		}()
	}
	var taken []time.Duration
	wrong := ""
	for range echoes {
		one := <-outcomes
		taken = append(taken, one.taken...)
		if one.err != nil {
			wrong = one.err.Error()
		}
	}
	r := summary(taken, time.Since(begun).Seconds())
	r.Wrong = wrong
	return print(r)
}

func echoUntil(end time.Time, echo func([]byte) ([]byte, error), number, size int) ([]time.Duration, error) {
	taken := make([]time.Duration, 0, 1<<14)
	message := bytes.Repeat([]byte{byte(number)}, size)
	for i := uint64(0); ; i++ {
		begun := time.Now()
		if begun.After(end) {
			return taken, nil
		}
		binary.BigEndian.PutUint64(message, i)
		answer, err := echo(message)
		if err != nil {
			return taken, err
		}
		if !bytes.Equal(answer, message) {
			return taken, fmt.Errorf("message %d of %d came back as another", i, number)
		}
		taken = append(taken, time.Since(begun))
	}
}

// clientTLS wants what the other clients of the bench offer, so that nobody is measured with a different cipher; Go can't leave its
// other suites out. The chain is not what is measured, and is proven elsewhere.
func clientTLS(o options, protocols ...string) *tls.Config {
	return &tls.Config{ServerName: o.host, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: protocols,
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
				return fmt.Errorf("the proxy chose %s", tls.CipherSuiteName(state.CipherSuite))
			}
			return nil
		}}
}

func dial(o options) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+o.target, grpc.WithTransportCredentials(credentials.NewTLS(clientTLS(o))), grpc.WithAuthority(o.host),
		grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
}

var streamDesc = grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true}

func streamEchoes(o options) ([]func([]byte) ([]byte, error), error) {
	connection, err := dial(o)
	if err != nil {
		return nil, err
	}
	var echoes []func([]byte) ([]byte, error)
	for range o.streams {
		stream, err := connection.NewStream(context.Background(), &streamDesc, "/app/Stream")
		if err != nil {
			return nil, err
		}
		var answer []byte
		echoes = append(echoes, func(message []byte) ([]byte, error) {
			if err := stream.SendMsg(&message); err != nil {
				return nil, err
			}
			err := stream.RecvMsg(&answer)
			return answer, err
		})
	}
	return echoes, nil
}

func websocketEchoes(o options) ([]func([]byte) ([]byte, error), error) {
	dialer := websocket.Dialer{HandshakeTimeout: answerLimit, NetDialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, o.target)
	}}
	socket, answer, err := dialer.Dial("ws://"+o.host+"/app/ws", http.Header{})
	if err != nil {
		if answer != nil {
			return nil, fmt.Errorf("%w: status %s", err, answer.Status)
		}
		return nil, err
	}
	return []func([]byte) ([]byte, error){func(message []byte) ([]byte, error) {
		if err := socket.WriteMessage(websocket.BinaryMessage, message); err != nil {
			return nil, err
		}
		_, answer, err := socket.ReadMessage()
		return answer, err
	}}, nil
}

// prove makes a call of each kind and prints the metadata that the backend got.
func prove(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	connection, err := dial(o)
	if err != nil {
		return err
	}
	defer connection.Close()
	message, answer := []byte("O brave new world"), []byte{}
	if err := connection.Invoke(ctx, "/app/Echo", &message, &answer); err != nil {
		return err
	}
	if !bytes.Equal(message, answer) {
		return fmt.Errorf("the echo was %q", answer)
	}
	stream, err := connection.NewStream(ctx, &streamDesc, "/app/Stream")
	if err != nil {
		return err
	}
	for range 3 {
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
		if err := stream.RecvMsg(&answer); err != nil {
			return err
		}
		if !bytes.Equal(message, answer) {
			return fmt.Errorf("the stream's echo was %q", answer)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var seen []byte
	if err := connection.Invoke(ctx, "/app/Headers", &message, &seen); err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(seen, '\n'))
	return err
}
