package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"portunus.dev/cluster/box"
)

// startTimeout bounds the time from the process's start to its exec of the container's program.
const startTimeout = 20 * time.Second

// process is a container's process, pid 1 of its pid namespace.
type process struct {
	cmd   *exec.Cmd
	began time.Time
	ended chan struct{}
}

// startProcess starts a container; it returns when its program runs, or why it doesn't. It closes log, to
// which it has passed all output before the process counts as ended.
func startProcess(program string, spec *box.Spec, log *os.File) (*process, error) {
	logged := make(chan struct{})
	// A pipe, as runtimes have it: a program may open /dev/stdout anew, which would cut a file short.
	outputRead, output, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	defer output.Close()
	go func() {
		defer close(logged)
		_, _ = io.Copy(log, outputRead)
		outputRead.Close()
		log.Close()
	}()
	if err := output.Chown(spec.UID, spec.GID); err != nil {
		return nil, err
	}
	told, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	specRead, specWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer specRead.Close()
	defer specWrite.Close()
	errorRead, errorWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer errorRead.Close()
	defer errorWrite.Close()

	cmd := exec.Command(program, "box")
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{specRead, errorWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, began: time.Now(), ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		output.Close()
		<-logged
		close(p.ended)
	}()
	specRead.Close()
	errorWrite.Close()
	deadline := time.Now().Add(startTimeout)
	failed := errors.Join(specWrite.SetDeadline(deadline), errorRead.SetDeadline(deadline))
	_, err = specWrite.Write(told)
	failed = errors.Join(failed, err, specWrite.Close())
	said, err := io.ReadAll(errorRead)
	failed = errors.Join(failed, err)
	if len(said) > 0 {
		failed = fmt.Errorf("%s", said)
	}
	if failed != nil {
		p.signal(syscall.SIGKILL)
		<-p.ended
		return nil, failed
	}
	return p, nil
}

// signal sends a signal to a process that may have ended.
func (p *process) signal(signal syscall.Signal) { _ = p.cmd.Process.Signal(signal) }

// result is how the process ended: its exit code as a runtime tells it, and the signal.
func (p *process) result() (code, signal int32) {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int32(status.Signal()), int32(status.Signal())
	}
	return int32(p.cmd.ProcessState.ExitCode()), 0
}
