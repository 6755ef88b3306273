package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A component that isn't ready, or isn't gone, after so long is a failure.
const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
	restartPause = time.Second
)

// component is a carried program that the cluster runs.
type component struct {
	name  string
	args  []string
	ready func(context.Context) error
}

// supervisor keeps the components running, as a kubelet does its static Pods, apart from those that it was
// told to stop.
type supervisor struct {
	self, logs string

	mu         sync.Mutex
	order      []string
	components map[string]*supervised
}

// supervised is a component and its present process.
type supervised struct {
	component
	wanted bool
	cmd    *exec.Cmd
	gone   chan struct{} // closed when cmd has ended
}

func newSupervisor(self, logs string) *supervisor {
	return &supervisor{self: self, logs: logs, components: map[string]*supervised{}}
}

// run starts a new component and waits until it is ready.
func (s *supervisor) run(ctx context.Context, c component) error {
	s.mu.Lock()
	s.order = append(s.order, c.name)
	s.components[c.name] = &supervised{component: c}
	s.mu.Unlock()
	return s.start(ctx, c.name)
}

func (s *supervisor) find(name string) (*supervised, error) {
	if c := s.components[name]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no component %q; there are %s", name, strings.Join(s.order, ", "))
}

// start starts a component that doesn't run, and waits until it is ready.
func (s *supervisor) start(ctx context.Context, name string) error {
	s.mu.Lock()
	c, err := s.find(name)
	if err == nil && !c.wanted {
		c.wanted = true
		err = s.spawn(c)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := await(ctx, c.ready); err != nil {
		return fmt.Errorf("%s isn't ready: %w; see %s/%s.log", name, err, s.logs, name)
	}
	return nil
}

// spawn starts c's process; the lock is held.
func (s *supervisor) spawn(c *supervised) error {
	log, err := os.OpenFile(fmt.Sprintf("%s/%s.log", s.logs, c.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.self, append([]string{c.name}, c.args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	// Out of the terminal's reach: Ctrl-C is for the command that runs inside.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	c.cmd, c.gone = cmd, gone
	go func() {
		err := cmd.Wait()
		close(gone)
		s.mu.Lock()
		unexpected := c.wanted
		s.mu.Unlock()
		if unexpected {
			say("%s ended (%v); see %s/%s.log; starting it again", c.name, err, s.logs, c.name)
			time.Sleep(restartPause)
			s.respawn(c, cmd)
		}
	}()
	return nil
}

// respawn starts c again, unless somebody has meanwhile stopped or started it.
func (s *supervisor) respawn(c *supervised, ended *exec.Cmd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.wanted || c.cmd != ended {
		return
	}
	if err := s.spawn(c); err != nil {
		say("%s can't be started: %v", c.name, err)
	}
}

// stop ends a component with a signal and waits until it is gone; it stays so until start.
func (s *supervisor) stop(name string, signal syscall.Signal) error {
	s.mu.Lock()
	c, err := s.find(name)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	c.wanted = false
	gone := c.gone
	err = c.cmd.Process.Signal(signal)
	s.mu.Unlock()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-gone:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("%s still runs %v after signal %v; kill ends it", name, stopTimeout, signal)
	}
}

// signal sends a running component a signal.
func (s *supervisor) signal(name string, signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.find(name)
	if err != nil {
		return err
	}
	if !c.wanted {
		return fmt.Errorf("%s doesn't run", name)
	}
	return c.cmd.Process.Signal(signal)
}

// status is a line for each component.
func (s *supervisor) status() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var text strings.Builder
	for _, name := range s.order {
		c := s.components[name]
		select {
		case <-c.gone:
			fmt.Fprintf(&text, "%s stopped\n", name)
		default:
			fmt.Fprintf(&text, "%s running pid %d\n", name, c.cmd.Process.Pid)
		}
	}
	return text.String()
}

// await asks each 50 ms until the answer is nil, or the context ends; then it tells the last answer.
func await(ctx context.Context, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}
