package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// runEnter runs a command in the namespaces of a running cluster.
func runEnter(args []string) error {
	flags := flag.NewFlagSet("enter", flag.ExitOnError)
	dir := flags.String("state", "", "directory of the cluster's files")
	_ = flags.Parse(args)
	if flags.NArg() == 0 {
		return fmt.Errorf("say what to run: enter -- COMMAND ARGS...")
	}
	st, err := stateFlag(*dir)
	if err != nil {
		return err
	}
	pid, err := st.running()
	if err != nil {
		return err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("%w (Debian package util-linux)", err)
	}
	self, _, err := programs()
	if err != nil {
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	command := []string{nsenter, "--target", strconv.Itoa(pid), "--mount", "--net", "--pid", "--uts", "--ipc"}
	if os.Getuid() != 0 {
		command = append(command, "--user", "--preserve-credentials")
	}
	command = append(command, "--", self, "inside-exec", string(st), here)
	return syscall.Exec(nsenter, append(command, flags.Args()...), os.Environ())
}

// runInsideExec is what enter starts inside: STATE DIR COMMAND ARGS...
func runInsideExec(args []string) error {
	st, dir, command := state(args[0]), args[1], args[2:]
	cmd := insideCommand(st, dir, command)
	if cmd.Err != nil {
		return cmd.Err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	return syscall.Exec(cmd.Path, cmd.Args, cmd.Env)
}

// insideCommand is a command with the environment of inside, looked up in the PATH of inside.
func insideCommand(st state, dir string, command []string) *exec.Cmd {
	env := st.insideEnv()
	for _, entry := range env {
		if len(entry) > 5 && entry[:5] == "PATH=" {
			os.Setenv("PATH", entry[5:])
		}
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env, cmd.Dir = env, dir
	return cmd
}
