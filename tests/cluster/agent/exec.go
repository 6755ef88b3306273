package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const (
	streamIdle     = 10 * time.Minute
	streamCreation = 30 * time.Second
)

// serveExec is `kubectl exec`, without a terminal.
func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	c, err := a.findContainer(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, executor{c}, c.pod.name, string(c.pod.uid), c.spec.Name, r.URL.Query()["command"],
		options, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

// executor runs commands in one container.
type executor struct{ container *container }

func (e executor) ExecInContainer(ctx context.Context, _, _, _ string, command []string, in io.Reader, out, errs io.WriteCloser,
	_ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	cmd, err := e.container.execCommand(ctx, command)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		// The command ended well, before its input did.
		return nil
	}
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		return utilexec.CodeExitError{Err: err, Code: exited.ExitCode()}
	}
	return err
}

// servePortForward is `kubectl port-forward`, to what listens on the Pod's address.
func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	p := a.find(r.PathValue("namespace"), r.PathValue("pod"))
	if p == nil {
		http.Error(w, "no such pod here", http.StatusNotFound)
		return
	}
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, forwarder{p}, p.name, string(p.uid), options, streamIdle, streamCreation, portforward.SupportedProtocols)
}

// forwarder passes bytes to ports of one Pod.
type forwarder struct{ pod *pod }

func (f forwarder) PortForward(ctx context.Context, _ string, _ string, port int32, stream io.ReadWriteCloser) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(f.pod.address(), strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, conn)
	return err
}
