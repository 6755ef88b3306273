package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Request metadata that the server understands, beside the messages themselves.
const (
	// Sent back as header metadata, all values in order.
	keyHeader = "echo-header"
	// Sent back as trailer metadata; `-bin`, so any bytes must survive.
	keyTrailer = "echo-trailer-bin"
	// The call sends its header, then waits until its context ends; why it ended is kept under this name.
	keyHang = "echo-hang"
	// A unary call that answers, as its payload, why the call of this name ended.
	keyReport = "echo-report"
)

type server struct {
	pb.UnimplementedTestServiceServer
	mutex sync.Mutex
	ended map[string]chan string
}

func serve(listen, cert, key string) error {
	var options []grpc.ServerOption
	if cert != "" || key != "" {
		tls, err := credentials.NewServerTLSFromFile(cert, key)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(tls))
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	service := grpc.NewServer(options...)
	pb.RegisterTestServiceServer(service, &server{ended: map[string]chan string{}})
	fmt.Println("listening on", listener.Addr())
	return service.Serve(listener)
}

func (s *server) EmptyCall(context.Context, *pb.Empty) (*pb.Empty, error) {
	return &pb.Empty{}, nil
}

func (s *server) UnaryCall(ctx context.Context, request *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	given, _ := metadata.FromIncomingContext(ctx)
	if values := given.Get(keyHeader); len(values) > 0 {
		grpc.SetHeader(ctx, metadata.MD{keyHeader: values})
	}
	if values := given.Get(keyTrailer); len(values) > 0 {
		grpc.SetTrailer(ctx, metadata.MD{keyTrailer: values})
	}
	if names := given.Get(keyReport); len(names) == 1 {
		select {
		case why := <-s.end(names[0]):
			return &pb.SimpleResponse{Payload: &pb.Payload{Body: []byte(why)}}, nil
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	if names := given.Get(keyHang); len(names) == 1 {
		return nil, s.hang(ctx, names[0])
	}
	if err := wantedStatus(request.GetResponseStatus()); err != nil {
		return nil, err
	}
	response := &pb.SimpleResponse{Payload: request.GetPayload()}
	if authority := given.Get(":authority"); len(authority) == 1 {
		response.Hostname = authority[0]
	}
	return response, nil
}

func (s *server) StreamingOutputCall(request *pb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for i, parameters := range request.GetResponseParameters() {
		payload := numbered(i, int(parameters.GetSize()))
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: payload}); err != nil {
			return err
		}
	}
	return wantedStatus(request.GetResponseStatus())
}

func (s *server) StreamingInputCall(stream grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	var bytes int32
	for i := 0; ; i++ {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: bytes})
		}
		if err != nil {
			return err
		}
		if err := checkNumber(request.GetPayload(), i); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		bytes += int32(len(request.GetPayload().GetBody()))
	}
}

func (s *server) FullDuplexCall(stream grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	given, _ := metadata.FromIncomingContext(stream.Context())
	if names := given.Get(keyHang); len(names) == 1 {
		if err := stream.SendHeader(nil); err != nil {
			return err
		}
		return s.hang(stream.Context(), names[0])
	}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: request.GetPayload()}); err != nil {
			return err
		}
	}
}

// hang waits for the end of the call and keeps the reason for one later report.
func (s *server) hang(ctx context.Context, name string) error {
	<-ctx.Done()
	s.end(name) <- ctx.Err().Error()
	return status.FromContextError(ctx.Err()).Err()
}

// end is the channel of a call's name, with room for its one reason, so that neither side need come first.
func (s *server) end(name string) chan string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.ended[name] == nil {
		s.ended[name] = make(chan string, 1)
	}
	return s.ended[name]
}

// wantedStatus makes the status that a request asks for; the asked-for status itself is its detail.
func wantedStatus(wanted *pb.EchoStatus) error {
	if wanted.GetCode() == 0 {
		return nil
	}
	answer, err := status.New(codes.Code(wanted.GetCode()), wanted.GetMessage()).WithDetails(wanted)
	if err != nil {
		return err
	}
	return answer.Err()
}

// numbered is a payload of at least 4 bytes that begins with its number in the stream.
func numbered(number, bytes int) *pb.Payload {
	body := make([]byte, max(bytes, 4))
	binary.BigEndian.PutUint32(body, uint32(number))
	return &pb.Payload{Body: body}
}

func checkNumber(payload *pb.Payload, want int) error {
	body := payload.GetBody()
	if len(body) < 4 {
		return fmt.Errorf("message %d has a body of %d bytes", want, len(body))
	}
	if number := binary.BigEndian.Uint32(body); number != uint32(want) {
		return fmt.Errorf("message %d came where %d was due", number, want)
	}
	return nil
}
