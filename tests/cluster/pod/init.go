package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// lifelineFD is a pipe whose other end the process outside of the namespaces holds and never writes to.
const lifelineFD = 3

// runInit is pid 1 of the cluster: it gives the namespaces their /proc and an empty /run, runs one command
// in them, reaps what nobody waits for, and ends with the command. When it ends, the kernel ends the rest.
func runInit(command []string) error {
	go func() {
		// The end of the pipe means that the process outside is gone, however it went.
		os.NewFile(lifelineFD, "lifeline").Read(make([]byte, 1))
		os.Exit(1)
	}()
	unix.CloseOnExec(lifelineFD)
	if err := prepareMounts(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	child, err := os.StartProcess(command[0], command, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	go func() {
		for s := range signals {
			_ = syscall.Kill(child.Pid, s.(syscall.Signal))
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case pid == child.Pid && status.Signaled():
			os.Exit(128 + int(status.Signal()))
		case pid == child.Pid:
			os.Exit(status.ExitStatus())
		}
	}
}

func prepareMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc (a container that hides parts of it doesn't let a user mount it anew; run as root there): %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return nil
}
