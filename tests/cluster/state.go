package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// stateEnv names the state directory to those who run inside.
const stateEnv = "PORTUNUS_CLUSTER_STATE"

// state is the directory in which a cluster keeps its files, and by which others reach it.
type state string

func (s state) path(elements ...string) string {
	return filepath.Join(append([]string{string(s)}, elements...)...)
}

func (s state) marker() string           { return s.path(".portunus-cluster") }
func (s state) lock() string             { return s.path("lock") }
func (s state) pid() string              { return s.path("pid") }
func (s state) outerPID() string         { return s.path("outer.pid") }
func (s state) ctlSocket() string        { return s.path("ctl.sock") }
func (s state) apiSocket() string        { return s.path("api.sock") }
func (s state) kubeconfig() string       { return s.path("kubeconfig") }
func (s state) insideKubeconfig() string { return s.path("kubeconfig.inside") }
func (s state) bin() string              { return s.path("bin") }
func (s state) logs() string             { return s.path("logs") }
func (s state) pki(file string) string   { return s.path("pki", file) }

// maxSocketPath is the kernel's limit of a unix socket's path.
const maxSocketPath = 107

// stateFlag makes an absolute state of what --state says, or else the environment.
func stateFlag(dir string) (state, error) {
	if dir == "" {
		dir = os.Getenv(stateEnv)
	}
	if dir == "" {
		return "", fmt.Errorf("say which cluster: --state DIR, or %s", stateEnv)
	}
	dir, err := filepath.Abs(dir)
	s := state(dir)
	if len(s.ctlSocket()) > maxSocketPath {
		return "", fmt.Errorf("--state %s is too long for the sockets in it; take a shorter one", dir)
	}
	return s, err
}

// claim takes the directory for one cluster and empties it of an earlier one. The lock lasts as long as
// the returned file is open.
func (s state) claim() (*os.File, error) {
	if err := os.MkdirAll(string(s), 0o755); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(string(s))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.marker()); err != nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s has files that aren't a cluster's; take an empty directory", s)
	}
	lock, err := os.OpenFile(s.lock(), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("a cluster runs in %s already; stop it, or take another --state", s)
	}
	if err := os.WriteFile(s.marker(), nil, 0o644); err != nil {
		return nil, err
	}
	kept := map[string]bool{s.lock(): true, s.marker(): true}
	for _, entry := range entries {
		if path := s.path(entry.Name()); !kept[path] {
			if err := os.RemoveAll(path); err != nil {
				return nil, err
			}
		}
	}
	for _, dir := range []string{s.bin(), s.logs()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return lock, os.Mkdir(s.path("pki"), 0o700)
}

// retract removes what would point others to a cluster that is no more; the logs stay.
func (s state) retract() {
	for _, path := range []string{s.pid(), s.outerPID(), s.ctlSocket(), s.apiSocket(), s.kubeconfig(), s.insideKubeconfig(), s.path("etcd"), s.path("pki")} {
		_ = os.RemoveAll(path)
	}
}

// running is the process id of the cluster's pid 1, as this process sees it.
func (s state) running() (int, error) {
	none := fmt.Errorf("no cluster runs in %s; start one with: scripts/cluster.sh up", s)
	lock, err := os.Open(s.lock())
	if err != nil {
		return 0, none
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		return 0, none
	}
	text, err := os.ReadFile(s.pid())
	if err != nil {
		return 0, none
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// insideEnv is the environment of commands that run inside.
func (s state) insideEnv() []string {
	var env []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if name != "PATH" && name != "KUBECONFIG" && name != stateEnv {
			env = append(env, entry)
		}
	}
	return append(env,
		"PATH="+s.bin()+":"+os.Getenv("PATH")+":/usr/sbin:/sbin",
		"KUBECONFIG="+s.insideKubeconfig(),
		stateEnv+"="+string(s))
}
