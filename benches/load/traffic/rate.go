package main

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epoll_pwait2 takes nanoseconds; Go's own timers are a millisecond late when nothing else wakes its poller.
const sysEpollPwait2 = 441

const (
	// A stop for runs that hang: longer than any answer may take, shorter than the caller's patience.
	drainLimit      = 3 * time.Second
	readBuffer      = 16 << 10
	prSetTimerSlack = 29
)

type constantConnection struct {
	fd       int
	intended time.Duration // since the start; when its request was due
	buffer   []byte
	length   int
}

// constantRate sends request i when i/rate seconds have passed, on a free connection, else as soon as one is free; its latency runs
// from when it was due, so a proxy that stalls is charged for all that waited (coordinated omission). One thread, no Go
// scheduler, no spinning: the backend shares the core.
func constantRate(o options) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	unix.Prctl(prSetTimerSlack, 1, 0, 0, 0)
	epoll, err := unix.EpollCreate1(0)
	if err != nil {
		return err
	}
	connections := make([]*constantConnection, o.connections)
	free := make(chan *constantConnection, o.connections) // in turn, so that all are used
	for i := range connections {
		if connections[i], err = connectRaw(o.target); err != nil {
			return err
		}
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, connections[i].fd, &event); err != nil {
			return err
		}
		free <- connections[i]
	}
	request := []byte("GET " + o.path + " HTTP/1.1\r\nHost: " + o.host + "\r\n\r\n")
	total := int(float64(o.rate) * o.seconds)
	taken, late := make([]time.Duration, 0, total), make([]time.Duration, 0, total)
	events := make([]unix.EpollEvent, o.connections)
	sent, begun, waited := 0, time.Now(), false
	for len(taken) < total {
		now := time.Since(begun)
		due := time.Duration(float64(sent) / float64(o.rate) * 1e9)
		for sent < total && due <= now && len(free) > 0 {
			c := <-free
			if _, err := unix.Write(c.fd, request); err != nil {
				return err
			}
			if c.intended = due; !waited {
				late = append(late, now-due)
			}
			sent++
			due = time.Duration(float64(sent) / float64(o.rate) * 1e9)
			now = time.Since(begun)
		}
		waited = due <= now && sent < total // for a connection: its lateness is the proxy's
		if now > time.Duration(o.seconds*1e9)+drainLimit {
			break
		}
		wait := drainLimit
		if !waited && sent < total {
			wait = due - now
		}
		ready, err := epollWait(epoll, events, wait)
		if err != nil {
			return err
		}
		for _, event := range events[:ready] {
			c := connections[event.Fd]
			done, err := c.read(o.bytes)
			if err != nil {
				return err
			}
			if done {
				taken = append(taken, time.Since(begun)-c.intended)
				free <- c
			}
		}
	}
	r := summary(taken, max(o.seconds, time.Since(begun).Seconds()))
	slices.Sort(late)
	r.Late = percentile(late, 0.99)
	if len(taken) < total {
		r.Wrong = fmt.Sprintf("%d of %d requests answered", len(taken), total)
	}
	return print(r)
}

func epollWait(epoll int, events []unix.EpollEvent, wait time.Duration) (int, error) {
	timeout := unix.NsecToTimespec(int64(max(wait, 0)))
	ready, _, errno := unix.RawSyscall6(sysEpollPwait2, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
		uintptr(unsafe.Pointer(&timeout)), 0, 0)
	if errno == unix.EINTR {
		return 0, nil
	}
	if errno != 0 {
		return 0, errno
	}
	return int(ready), nil
}

func connectRaw(target string) (*constantConnection, error) {
	address, err := net.ResolveTCPAddr("tcp4", target)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	to := unix.SockaddrInet4{Port: address.Port, Addr: [4]byte(address.IP.To4())}
	if err := unix.Connect(fd, &to); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return nil, err
	}
	return &constantConnection{fd: fd, buffer: make([]byte, readBuffer)}, unix.SetNonblock(fd, true)
}

// read takes what is there and says whether the answer is complete; an answer that isn't right is an error.
func (c *constantConnection) read(bodyBytes int) (bool, error) {
	n, err := unix.Read(c.fd, c.buffer[c.length:])
	if err == unix.EAGAIN {
		return false, nil
	}
	if err != nil || n == 0 {
		return false, fmt.Errorf("the proxy closed a connection: %v", err)
	}
	c.length += n
	head := bytes.Index(c.buffer[:c.length], []byte("\r\n\r\n"))
	if head < 0 || c.length < head+4+bodyBytes {
		return false, nil
	}
	if err := right(c.buffer[:head+2], c.length-head-4, bodyBytes); err != nil {
		return false, err
	}
	c.length = 0
	return true, nil
}

var contentLength = []byte("\r\ncontent-length: ")

// right says what is wrong with an answer: its head, and how many bytes came after it.
func right(head []byte, came, bodyBytes int) error {
	lower := bytes.ToLower(head)
	at := bytes.Index(lower, contentLength)
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200")) || at < 0 || came != bodyBytes ||
		!bytes.HasPrefix(lower[at+len(contentLength):], []byte(strconv.Itoa(bodyBytes)+"\r\n")) {
		return fmt.Errorf("wrong answer: %q and %d bytes", head, came)
	}
	return nil
}
