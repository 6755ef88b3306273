// portunus-cluster is a Kubernetes cluster for tests in one program: the real control plane, kube-proxy,
// CoreDNS, kubectl and helm as libraries, and a node agent whose Pods are network namespaces. It
// touches nothing outside of the namespaces that it makes. See README.md.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const usage = `usage:
  portunus-cluster up --state DIR [--image NAME=PROGRAM]... [--without kube-proxy,coredns] [--nodes N] [--host-port PORT] [-- COMMAND ARGS...]
  portunus-cluster enter [--state DIR] -- COMMAND ARGS...
  portunus-cluster ctl [--state DIR] status | stop|kill|start|pause|resume COMPONENT
  portunus-cluster etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kube-proxy|coredns|kubectl|helm ARGS...
  portunus-cluster echo|get|sleep ARGS...
`

// own are the modes of this program itself; inside and inside-exec are those that up and enter start.
var own = map[string]func(args []string) error{
	"up":          runUp,
	"enter":       runEnter,
	"ctl":         runCtl,
	"inside":      runInside,
	"inside-exec": runInsideExec,
	"echo":        podMode("echo"),
	"get":         podMode("get"),
	"sleep":       podMode("sleep"),
}

// exitCode is an error that only ends the program, what there was to say having been said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	// Called by the name of a carried program, as kubectl, or with that name as the first argument.
	if program := carried[filepath.Base(os.Args[0])]; program != nil {
		os.Exit(program())
	}
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	mode := os.Args[1]
	if program := carried[mode]; program != nil {
		os.Args = os.Args[1:]
		os.Exit(program())
	}
	run := own[mode]
	if run == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(os.Args[2:]); err != nil {
		var code exitCode
		if errors.As(err, &code) {
			os.Exit(int(code))
		}
		fmt.Fprintf(os.Stderr, "cluster: %s: %v\n", mode, err)
		os.Exit(1)
	}
}

// say tells the user where the cluster is.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "cluster: "+format+"\n", args...)
}

// podMode runs a mode of the small program in place of this one.
func podMode(mode string) func([]string) error {
	return func(args []string) error {
		_, pod, err := programs()
		if err != nil {
			return err
		}
		return syscall.Exec(pod, append([]string{pod, mode}, args...), os.Environ())
	}
}

// programs are this program and the small one beside it.
func programs() (self, pod string, err error) {
	self, err = os.Executable()
	if err != nil {
		return "", "", err
	}
	pod = self + "-pod"
	if _, err := os.Stat(pod); err != nil {
		return "", "", fmt.Errorf("%w (scripts/cluster.sh build makes both programs)", err)
	}
	return self, pod, nil
}
