package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A container that ended is started again after a pause, shorter than the kubelet's so that tests are quick.
const (
	minBackoff   = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
	healthyAfter = 10 * time.Second // it ran so long: the next pause is the shortest again
	// minKillGrace is what the kubelet leaves a process after a preStop hook that used the grace up.
	minKillGrace = 2 * time.Second
)

// container is one container of a Pod, through all its restarts.
type container struct {
	pod           *pod
	spec          *v1.Container
	init, sidecar bool
	logPath       string
	hasStarted    chan struct{} // closed when it first has started, its startup probe included
	finished      chan struct{} // closed when it won't run again

	mu        sync.Mutex
	state     v1.ContainerState
	last      v1.ContainerState
	restarts  int32
	started   bool
	ready     bool
	logStarts []int64 // where in the log each run began
	process   *process
}

func newContainer(p *pod, spec *v1.Container, init bool) *container {
	c := &container{
		pod: p, spec: spec, init: init,
		sidecar:    init && spec.RestartPolicy != nil && *spec.RestartPolicy == v1.ContainerRestartPolicyAlways,
		logPath:    filepath.Join(p.agent.Logs, p.namespace+"_"+p.name+"_"+spec.Name+".log"),
		hasStarted: make(chan struct{}),
		finished:   make(chan struct{}),
	}
	reason := "ContainerCreating"
	if !init && len(p.object.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	c.state.Waiting = &v1.ContainerStateWaiting{Reason: reason}
	return c
}

// run runs the container, again and again as its policy says, until stop closes.
func (c *container) run(stop <-chan struct{}) {
	defer close(c.finished)
	backoff := minBackoff
	for {
		began := time.Now()
		if c.runOnce(stop); closed(stop) || !c.runsAgain() {
			return
		}
		if time.Since(began) > healthyAfter {
			backoff = minBackoff
		}
		c.waitingAgain("CrashLoopBackOff", "")
		if !sleep(backoff, stop) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// runsAgain says whether a container that ended starts again.
func (c *container) runsAgain() bool {
	if c.sidecar {
		return true
	}
	switch c.pod.spec().RestartPolicy {
	case v1.RestartPolicyNever:
		return c.exit() == nil
	case v1.RestartPolicyOnFailure:
		return !c.succeeded()
	default:
		return !c.init || !c.succeeded()
	}
}

// runOnce starts the container, and returns when it has ended or stop has closed.
func (c *container) runOnce(stop <-chan struct{}) {
	process := c.startUntilStopped(stop)
	if process == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	healthCtx, stopHealth := context.WithCancel(ctx)
	defer stopHealth()
	unhealthy := make(chan *v1.Probe, 3)
	go c.probeAll(ctx, healthCtx, unhealthy)
	if c.spec.Lifecycle != nil && c.spec.Lifecycle.PostStart != nil {
		if err := c.runHook(ctx, c.spec.Lifecycle.PostStart); err != nil {
			c.pod.agent.Say("%s/%s %s: postStart: %v", c.pod.namespace, c.pod.name, c.spec.Name, err)
			unhealthy <- nil
		}
	}
	select {
	case <-process.ended:
	case probe := <-unhealthy:
		stopHealth()
		var grace *int64
		if probe != nil {
			grace = probe.TerminationGracePeriodSeconds
		}
		c.terminate(process, c.pod.terminationDeadline(grace))
	case <-stop:
		// Readiness is probed on: a Pod that drains says truthfully whether it still serves.
		stopHealth()
		c.terminate(process, c.pod.terminationDeadline(nil))
	}
	cancel()
	c.setTerminated(process)
}

// startUntilStopped tries to start the process until it can, telling in the status why it can't.
func (c *container) startUntilStopped(stop <-chan struct{}) *process {
	backoff := minBackoff
	for !closed(stop) {
		process, reason, err := c.start()
		if err == nil {
			return process
		}
		c.waitingAgain(reason, err.Error())
		if !sleep(backoff, stop) {
			break
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// start starts the process; where it can't, it says why, first in the kubelet's word for it.
func (c *container) start() (_ *process, reason string, err error) {
	image, err := c.pod.agent.Images.find(c.spec.Image)
	if err != nil {
		return nil, "ErrImagePull", err
	}
	spec, err := c.boxSpec(image)
	if err != nil {
		return nil, "CreateContainerConfigError", err
	}
	log, err := os.OpenFile(c.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, "CreateContainerError", err
	}
	info, err := log.Stat()
	if err != nil {
		return nil, "CreateContainerError", errors.Join(err, log.Close())
	}
	process, err := startProcess(c.pod.agent.PodProgram, spec, log)
	if err != nil {
		return nil, "RunContainerError", err
	}
	c.mu.Lock()
	c.process = process
	c.logStarts = append(c.logStarts, info.Size())
	if c.last.Terminated != nil {
		c.restarts++
	}
	c.state = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(process.began)}}
	c.mu.Unlock()
	if c.spec.StartupProbe == nil {
		c.setStarted()
	}
	c.pod.notify()
	return process, "", nil
}

// terminate ends a process the way the kubelet does: its hook, SIGTERM, and SIGKILL when time is over.
func (c *container) terminate(process *process, deadline time.Time) {
	if c.spec.Lifecycle != nil && c.spec.Lifecycle.PreStop != nil {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		go func() {
			select {
			case <-process.ended:
			case <-c.pod.gone:
			case <-ctx.Done():
			}
			cancel()
		}()
		if err := c.runHook(ctx, c.spec.Lifecycle.PreStop); err != nil {
			c.pod.agent.Say("%s/%s %s: preStop: %v", c.pod.namespace, c.pod.name, c.spec.Name, err)
		}
		cancel()
		if least := time.Now().Add(minKillGrace); deadline.Before(least) {
			deadline = least
		}
	}
	process.signal(syscall.SIGTERM)
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-process.ended:
		return
	case <-timer.C:
	case <-c.pod.gone:
	}
	process.signal(syscall.SIGKILL)
	<-process.ended
}

func (c *container) setStarted() {
	c.mu.Lock()
	c.started = true
	if c.spec.ReadinessProbe == nil {
		c.ready = true
	}
	c.mu.Unlock()
	if !closed(c.hasStarted) {
		close(c.hasStarted)
	}
	c.pod.notify()
}

func (c *container) setReady(ready bool) {
	c.mu.Lock()
	changed := c.ready != ready
	c.ready = ready
	c.mu.Unlock()
	if changed {
		c.pod.notify()
	}
}

func (c *container) setTerminated(process *process) {
	code, signal := process.result()
	terminated := &v1.ContainerStateTerminated{
		ExitCode: code, Signal: signal, Reason: "Completed",
		StartedAt: metav1.NewTime(process.began), FinishedAt: metav1.Now(),
	}
	if code != 0 {
		terminated.Reason = "Error"
	}
	c.mu.Lock()
	c.state = v1.ContainerState{Terminated: terminated}
	c.ready, c.started, c.process = false, false, nil
	c.mu.Unlock()
	c.pod.notify()
}

// waitingAgain says why the container doesn't run now; how it last ended is kept.
func (c *container) waitingAgain(reason, message string) {
	c.mu.Lock()
	if c.state.Terminated != nil {
		c.last = v1.ContainerState{Terminated: c.state.Terminated}
	}
	c.state = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
	c.mu.Unlock()
	c.pod.notify()
}

// exit is how the container ended, if it did.
func (c *container) exit() *v1.ContainerStateTerminated {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Terminated
}

func (c *container) succeeded() bool {
	exit := c.exit()
	return exit != nil && exit.ExitCode == 0
}

func closed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
