package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// ctlTimeout is longer than what the supervisor itself waits.
const ctlTimeout = 2 * time.Minute

// serveCtl answers, on a unix socket, one line of request per connection: VERB [COMPONENT]. The answer's first
// line is ok or what went wrong.
func serveCtl(ctx context.Context, listener net.Listener, s *supervisor) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(ctlTimeout))
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				return
			}
			text, err := obey(ctx, s, strings.Fields(line))
			if err != nil {
				fmt.Fprintln(conn, err)
				return
			}
			fmt.Fprintf(conn, "ok\n%s", text)
		}()
	}
}

func obey(ctx context.Context, s *supervisor, words []string) (string, error) {
	if len(words) == 1 && words[0] == "status" {
		return s.status(), nil
	}
	if len(words) == 2 {
		switch name := words[1]; words[0] {
		case "stop":
			return "", s.stop(name, syscall.SIGTERM)
		case "kill":
			return "", s.stop(name, syscall.SIGKILL)
		case "start":
			return "", s.start(ctx, name)
		case "pause":
			return "", s.signal(name, syscall.SIGSTOP)
		case "resume":
			return "", s.signal(name, syscall.SIGCONT)
		}
	}
	return "", fmt.Errorf("want: ctl status | stop|kill|start|pause|resume COMPONENT")
}

// runCtl asks a running cluster to do something with its components.
func runCtl(args []string) error {
	flags := flag.NewFlagSet("ctl", flag.ExitOnError)
	dir := flags.String("state", "", "directory of the cluster's files")
	_ = flags.Parse(args)
	st, err := stateFlag(*dir)
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", st.ctlSocket())
	if err != nil {
		return fmt.Errorf("no cluster answers in %s: %w", st, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(ctlTimeout))
	fmt.Fprintln(conn, strings.Join(flags.Args(), " "))
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	head, text, _ := strings.Cut(string(answer), "\n")
	if head != "ok" {
		return fmt.Errorf("%s", head)
	}
	fmt.Fprint(os.Stdout, text)
	return nil
}
