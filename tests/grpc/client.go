package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// No case takes a second; a loaded machine gets many.
	caseLimit       = 10 * time.Second
	streamMessages  = 100
	concurrentCalls = 64
	// Under gRPC's default limit of 4 MiB a message, far over every HTTP/2 window in between.
	largeBytes = 3 << 20
)

type clientOptions struct {
	target, ca, serverName, authority string
	tls                               bool
}

type client struct {
	pb.TestServiceClient
	authority string
}

var cases = []struct {
	name string
	run  func(*client, context.Context) error
}{
	{"unary", (*client).unary},
	{"unary-concurrent", (*client).unaryConcurrent},
	{"authority", (*client).seesAuthority},
	{"metadata", (*client).metadata},
	{"status", (*client).status},
	{"server-streaming", (*client).serverStreaming},
	{"client-streaming", (*client).clientStreaming},
	{"bidirectional", (*client).bidirectional},
	{"large-message", (*client).largeMessage},
	{"deadline", (*client).deadline},
	{"cancellation", (*client).cancellation},
	{"error-mid-stream", (*client).errorMidStream},
	{"unimplemented", (*client).unimplemented},
}

// runCases runs every case over one connection and says whether one failed.
func runCases(options clientOptions) (failed bool, err error) {
	connection, authority, err := connect(options)
	if err != nil {
		return false, err
	}
	defer connection.Close()
	c := &client{pb.NewTestServiceClient(connection), authority}
	for _, test := range cases {
		if err := bounded(func(ctx context.Context) error { return test.run(c, ctx) }); err != nil {
			fmt.Printf("FAIL %s: %s\n", test.name, strings.Join(strings.Fields(err.Error()), " "))
			failed = true
		} else {
			fmt.Println("ok", test.name)
		}
	}
	return failed, nil
}

// connect makes the connection, without a proxy from the environment, without a name look-up and
// without retries, so that what fails on the way is seen here.
func connect(options clientOptions) (*grpc.ClientConn, string, error) {
	transport, authority := insecure.NewCredentials(), options.target
	if options.tls {
		config := &tls.Config{ServerName: options.serverName, MinVersion: tls.VersionTLS12}
		if options.ca != "" {
			pem, err := os.ReadFile(options.ca)
			if err != nil {
				return nil, "", err
			}
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(pem) {
				return nil, "", fmt.Errorf("no certificate in %s", options.ca)
			}
		}
		transport = credentials.NewTLS(config)
		if options.serverName != "" {
			authority = options.serverName
		}
	}
	dial := []grpc.DialOption{grpc.WithTransportCredentials(transport), grpc.WithNoProxy(), grpc.WithDisableRetry()}
	if options.authority != "" {
		authority = options.authority
		dial = append(dial, grpc.WithDefaultCallOptions(grpc.CallAuthority(authority)))
	}
	connection, err := grpc.NewClient("passthrough:///"+options.target, dial...)
	return connection, authority, err
}

// bounded gives up on a case that outlives its context, too.
func bounded(run func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), caseLimit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(caseLimit + time.Second):
		return fmt.Errorf("no end after %s", caseLimit)
	}
}

func (c *client) unary(ctx context.Context) error {
	if _, err := c.EmptyCall(ctx, &pb.Empty{}); err != nil {
		return err
	}
	return c.echo(ctx, []byte("Wherefore art thou"))
}

func (c *client) unaryConcurrent(ctx context.Context) error {
	errs := make(chan error, concurrentCalls)
	for i := range concurrentCalls {
		go func() { errs <- c.echo(ctx, bytes.Repeat([]byte{byte(i)}, 1000*i)) }()
	}
	for range concurrentCalls {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// seesAuthority: the server gets the client's `:authority`, whatever is in between.
func (c *client) seesAuthority(ctx context.Context) error {
	response, err := c.UnaryCall(ctx, &pb.SimpleRequest{})
	if err != nil {
		return err
	}
	return want("authority at the server", response.GetHostname(), c.authority)
}

func (c *client) metadata(ctx context.Context) error {
	headers := []string{"first", "second, with a comma"}
	trailers := []string{"\x00\x01\xfe\xff", "plain"}
	given := metadata.MD{keyHeader: headers, keyTrailer: trailers}
	var header, trailer metadata.MD
	ctx = metadata.NewOutgoingContext(ctx, given)
	if _, err := c.UnaryCall(ctx, &pb.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		return err
	}
	if got := header.Get(keyHeader); !slices.Equal(got, headers) {
		return fmt.Errorf("header metadata %q instead of %q", got, headers)
	}
	if got := trailer.Get(keyTrailer); !slices.Equal(got, trailers) {
		return fmt.Errorf("trailer metadata %q instead of %q", got, trailers)
	}
	return nil
}

// status: the server answers with trailers only, a message that needs percent-encoding and a detail.
func (c *client) status(ctx context.Context) error {
	wanted := &pb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "100 % of Verona\nsays „no“"}
	_, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: wanted})
	return wantStatus(err, wanted)
}

func (c *client) serverStreaming(ctx context.Context) error {
	stream, err := c.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{ResponseParameters: sizes(streamMessages)})
	if err != nil {
		return err
	}
	if err := receiveNumbered(stream, streamMessages); err != nil {
		return err
	}
	return wantEnd(stream.Recv())
}

func (c *client) clientStreaming(ctx context.Context) error {
	stream, err := c.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	var sent int32
	for i, parameters := range sizes(streamMessages) {
		payload := numbered(i, int(parameters.GetSize()))
		sent += int32(len(payload.GetBody()))
		// After a failed Send the reason is in CloseAndRecv.
		if stream.Send(&pb.StreamingInputCallRequest{Payload: payload}) != nil {
			break
		}
	}
	response, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	return want("bytes at the server", response.GetAggregatedPayloadSize(), sent)
}

// bidirectional awaits each answer before the next message, which a proxy that buffers never gets past.
func (c *client) bidirectional(ctx context.Context) error {
	stream, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for i := range streamMessages {
		if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: numbered(i, i)}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("after %d answers: %w", i, err)
		}
		if err := checkNumber(response.GetPayload(), i); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return wantEnd(stream.Recv())
}

func (c *client) largeMessage(ctx context.Context) error {
	body := make([]byte, largeBytes)
	random := rand.NewChaCha8([32]byte{})
	random.Read(body)
	return c.echo(ctx, body)
}

// deadline: the client gets DEADLINE_EXCEEDED, and the call has ended at the server as well.
func (c *client) deadline(ctx context.Context) error {
	name := unique("deadline")
	short, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, keyHang, name), 200*time.Millisecond)
	defer cancel()
	_, err := c.UnaryCall(short, &pb.SimpleRequest{})
	if got := status.Code(err); got != codes.DeadlineExceeded {
		return fmt.Errorf("%v instead of DeadlineExceeded: %v", got, err)
	}
	_, err = c.whyEnded(ctx, name)
	return err
}

// cancellation: the server learns that the client has gone, on a call that has no deadline of its own.
func (c *client) cancellation(ctx context.Context) error {
	name := unique("cancellation")
	endless, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), keyHang, name))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	stream, err := c.FullDuplexCall(endless)
	if err != nil {
		return err
	}
	if _, err := stream.Header(); err != nil {
		return fmt.Errorf("no header before the first message: %w", err)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		return fmt.Errorf("%v instead of Canceled", err)
	}
	why, err := c.whyEnded(ctx, name)
	if err != nil {
		return err
	}
	return want("the server's reason", why, context.Canceled.Error())
}

func (c *client) errorMidStream(ctx context.Context) error {
	wanted := &pb.EchoStatus{Code: int32(codes.DataLoss), Message: "the letter was never sent"}
	stream, err := c.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{ResponseParameters: sizes(5), ResponseStatus: wanted})
	if err != nil {
		return err
	}
	if err := receiveNumbered(stream, 5); err != nil {
		return err
	}
	_, err = stream.Recv()
	return wantStatus(err, wanted)
}

func (c *client) unimplemented(ctx context.Context) error {
	_, err := c.UnimplementedCall(ctx, &pb.Empty{})
	return want("code", status.Code(err), codes.Unimplemented)
}

func (c *client) echo(ctx context.Context, body []byte) error {
	response, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: body}})
	if err != nil {
		return err
	}
	if got := response.GetPayload().GetBody(); !bytes.Equal(got, body) {
		return fmt.Errorf("%d bytes came back unlike the %d sent", len(got), len(body))
	}
	return nil
}

// whyEnded asks the server why it saw an earlier call end, and waits until it did.
func (c *client) whyEnded(ctx context.Context, name string) (string, error) {
	response, err := c.UnaryCall(metadata.AppendToOutgoingContext(ctx, keyReport, name), &pb.SimpleRequest{})
	if err != nil {
		return "", fmt.Errorf("the server didn't see the end: %w", err)
	}
	return string(response.GetPayload().GetBody()), nil
}

// sizes asks for so many messages, of 0 to 9,900 bytes.
func sizes(messages int) []*pb.ResponseParameters {
	parameters := make([]*pb.ResponseParameters, messages)
	for i := range parameters {
		parameters[i] = &pb.ResponseParameters{Size: int32(i % 100 * 100)}
	}
	return parameters
}

func receiveNumbered(stream grpc.ServerStreamingClient[pb.StreamingOutputCallResponse], messages int) error {
	for i := range messages {
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("after %d of %d messages: %w", i, messages, err)
		}
		if err := checkNumber(response.GetPayload(), i); err != nil {
			return err
		}
	}
	return nil
}

func want[T comparable](what string, got, wanted T) error {
	if got != wanted {
		return fmt.Errorf("%s is %v instead of %v", what, got, wanted)
	}
	return nil
}

func wantEnd(_ *pb.StreamingOutputCallResponse, err error) error {
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("%v instead of the stream's end", err)
	}
	return nil
}

func wantStatus(err error, wanted *pb.EchoStatus) error {
	got, _ := status.FromError(err)
	if int32(got.Code()) != wanted.GetCode() || got.Message() != wanted.GetMessage() {
		return fmt.Errorf("status %v %q instead of %v %q", got.Code(), got.Message(), codes.Code(wanted.GetCode()), wanted.GetMessage())
	}
	details := got.Details()
	if len(details) == 1 {
		if detail, ok := details[0].(proto.Message); ok && proto.Equal(detail, wanted) {
			return nil
		}
	}
	return fmt.Errorf("details %v instead of %v", details, wanted)
}

// unique lets several clients use one server.
func unique(name string) string {
	return fmt.Sprintf("%s-%016x", name, rand.Uint64())
}
