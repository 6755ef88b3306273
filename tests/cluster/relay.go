package main

import (
	"io"
	"net"
)

// relay passes the bytes of each connection that listener accepts to an address, until listener closes. A
// unix socket's path crosses network namespaces, which is how the API server is reached from outside.
func relay(listener net.Listener, network, address string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			to, err := net.Dial(network, address)
			if err != nil {
				return
			}
			defer to.Close()
			done := make(chan struct{}, 2)
			pass := func(a, b net.Conn) {
				_, _ = io.Copy(a, b)
				if half, ok := a.(interface{ CloseWrite() error }); ok {
					_ = half.CloseWrite()
				}
				done <- struct{}{}
			}
			go pass(to, conn)
			go pass(conn, to)
			<-done
			<-done
		}()
	}
}
