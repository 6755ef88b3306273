package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// runHook runs a lifecycle hook to its end, or to the context's.
func (c *container) runHook(ctx context.Context, hook *v1.LifecycleHandler) error {
	switch {
	case hook.Sleep != nil:
		sleep(time.Duration(hook.Sleep.Seconds)*time.Second, ctx.Done())
		return nil
	case hook.Exec != nil:
		return c.exec(ctx, hook.Exec.Command)
	case hook.HTTPGet != nil:
		return c.getHook(ctx, hook.HTTPGet)
	}
	return errors.New("hooks are exec, httpGet and sleep here")
}

func (c *container) getHook(ctx context.Context, get *v1.HTTPGetAction) error {
	port, err := c.port(get.Port)
	if err != nil {
		return err
	}
	host := get.Host
	if host == "" {
		host = c.pod.address()
	}
	scheme := "http"
	if get.Scheme != "" {
		scheme = strings.ToLower(string(get.Scheme))
	}
	url := fmt.Sprintf("%s://%s/%s", scheme, net.JoinHostPort(host, strconv.Itoa(int(port))), strings.TrimPrefix(get.Path, "/"))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for _, header := range get.HTTPHeaders {
		request.Header.Add(header.Name, header.Value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

// exec runs a command inside the running container, as its user and with its environment.
func (c *container) exec(ctx context.Context, command []string) error {
	cmd, err := c.execCommand(ctx, command)
	if err != nil {
		return err
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", command[0], err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

// execCommand is a command that nsenter starts in the container's namespaces.
func (c *container) execCommand(ctx context.Context, command []string) (*exec.Cmd, error) {
	c.mu.Lock()
	process := c.process
	c.mu.Unlock()
	if process == nil {
		return nil, fmt.Errorf("container %s doesn't run", c.spec.Name)
	}
	pid := process.cmd.Process.Pid
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil, err
	}
	args := []string{"--target", strconv.Itoa(pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--wd"}
	if user := c.user(); user.uid != 0 || user.gid != 0 {
		args = append(args, "--setuid", strconv.Itoa(user.uid), "--setgid", strconv.Itoa(user.gid))
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(append(args, "--"), command...)...)
	cmd.Env = strings.Split(strings.TrimRight(string(environ), "\x00"), "\x00")
	cmd.WaitDelay = time.Second
	return cmd, nil
}
