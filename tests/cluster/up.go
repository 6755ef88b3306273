package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are what `up` was told, as the process inside of the namespaces gets them.
type options struct {
	State    state
	Images   map[string]string // image name: program
	Without  map[string]bool
	Nodes    int
	HostPort int
	Command  []string
	Dir      string // where `up` was called
	Started  time.Time
}

// maxNodes is how many /24 there are for Pods before they meet another network's.
const maxNodes = 100

func parseUp(args []string) (*options, error) {
	opts := &options{Images: map[string]string{}, Without: map[string]bool{}, Started: time.Now()}
	flags := flag.NewFlagSet("up", flag.ExitOnError)
	dir := flags.String("state", "", "directory of the cluster's files")
	flags.Func("image", "`NAME=PROGRAM` that the image is", func(value string) error {
		name, program, found := strings.Cut(value, "=")
		if !found || name == "" {
			return errors.New("want NAME=PROGRAM")
		}
		program, err := filepath.Abs(program)
		if err != nil {
			return err
		}
		if info, err := os.Stat(program); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%s isn't a program; build it first", program)
		}
		opts.Images[name] = program
		return nil
	})
	flags.Func("without", "`PARTS` to leave out, of kube-proxy and coredns", func(value string) error {
		for part := range strings.SplitSeq(value, ",") {
			if part != "kube-proxy" && part != "coredns" {
				return fmt.Errorf("%q can't be left out; kube-proxy and coredns can", part)
			}
			opts.Without[part] = true
		}
		return nil
	})
	flags.IntVar(&opts.Nodes, "nodes", 1, "how many nodes")
	flags.IntVar(&opts.HostPort, "host-port", 0, "port of 127.0.0.1 for the API server (0: any)")
	_ = flags.Parse(args)
	opts.Command = flags.Args()
	if opts.Nodes < 1 || opts.Nodes > maxNodes {
		return nil, fmt.Errorf("--nodes: want 1 to %d", maxNodes)
	}
	var err error
	if opts.State, err = stateFlag(*dir); err != nil {
		return nil, err
	}
	opts.Dir, err = os.Getwd()
	return opts, err
}

// runUp is the process outside of the namespaces: it makes them, relays a port of the host's loopback to
// the API server, and ends with what runs inside. What runs inside ends with it too, however it ends.
func runUp(args []string) error {
	opts, err := parseUp(args)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("nft"); err != nil && !opts.Without["kube-proxy"] {
		if _, err := os.Stat("/usr/sbin/nft"); err != nil {
			return errors.New("kube-proxy needs nft: run scripts/cluster.sh setup, or: up --without kube-proxy,coredns")
		}
	}
	lock, err := opts.State.claim()
	if err != nil {
		return err
	}
	defer lock.Close()
	defer opts.State.retract()

	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(opts.HostPort)))
	if err != nil {
		return err
	}
	opts.HostPort = listener.Addr().(*net.TCPAddr).Port
	go relay(listener, "unix", opts.State.apiSocket())

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	cmd, lifeline, err := startInside(opts)
	if err != nil {
		return err
	}
	defer lifeline.Close()
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	for file, pid := range map[string]int{opts.State.pid(): cmd.Process.Pid, opts.State.outerPID(): os.Getpid()} {
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)+"\n"), 0o644); err != nil {
			return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
		}
	}
	return commandResult(cmd.Wait())
}

// startInside starts pid 1 of new namespaces: as root without a user namespace, else as root of one.
func startInside(opts *options) (*exec.Cmd, *os.File, error) {
	self, pod, err := programs()
	if err != nil {
		return nil, nil, err
	}
	told, err := json.Marshal(opts)
	if err != nil {
		return nil, nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer read.Close()
	cmd := exec.Command(pod, "init", self, "inside", string(told))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{read}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	// The death of the thread that starts it would count as the parent's.
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		write.Close()
		return nil, nil, fmt.Errorf("make namespaces: %w (run as root, or let users make them: sysctl user.max_user_namespaces, and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)", err)
	}
	return cmd, write, nil
}

// commandResult is the exit code of a command that has been waited for.
func commandResult(err error) error {
	var exited *exec.ExitError
	if !errors.As(err, &exited) {
		return err
	}
	if status, ok := exited.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitCode(128 + int(status.Signal()))
	}
	return exitCode(exited.ExitCode())
}
