package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Connections that are opened at once; more would measure what a rush leaves behind.
const openers = 32

// hold opens the connections, does a request on each, says `ready`, and waits for a line; then it does another request on each,
// which proves that none was closed meanwhile, says `held` and ends.
func hold(o options) error {
	connections := make([]net.Conn, o.connections)
	request := []byte("GET " + o.path + " HTTP/1.1\r\nHost: " + o.host + "\r\n\r\n")
	err := each(o.connections, func(i int) (err error) {
		if connections[i], err = net.DialTimeout("tcp", o.target, answerLimit); err != nil {
			return err
		}
		if o.tls {
			connections[i] = tls.Client(connections[i], clientTLS(o, "http/1.1"))
		}
		return exchange(connections[i], request, o.bytes)
	})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	if err := each(o.connections, func(i int) error { return exchange(connections[i], request, o.bytes) }); err != nil {
		return err
	}
	fmt.Println("held")
	return nil
}

// each does it for every number below the count, some at a time, and returns one of the errors.
func each(count int, do func(int) error) error {
	errs := make(chan error, openers)
	for first := range openers {
		go func() {
			for i := first; i < count; i += openers {
				if err := do(i); err != nil {
					errs <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
			}
			errs <- nil
		}()
	}
	var failure error
	for range openers {
		if err := <-errs; err != nil {
			failure = err
		}
	}
	return failure
}

func exchange(connection net.Conn, request []byte, bodyBytes int) error {
	connection.SetDeadline(time.Now().Add(answerLimit))
	if _, err := connection.Write(request); err != nil {
		return err
	}
	buffer, length := make([]byte, readBuffer), 0
	for {
		n, err := connection.Read(buffer[length:])
		length += n
		if head := bytes.Index(buffer[:length], []byte("\r\n\r\n")); head >= 0 && length >= head+4+bodyBytes {
			return right(buffer[:head+2], length-head-4, bodyBytes)
		}
		if err == io.EOF {
			return fmt.Errorf("closed after %d bytes of an answer", length)
		}
		if err != nil {
			return err
		}
	}
}
