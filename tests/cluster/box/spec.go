// Package box is the contract between the node agent and the process that becomes a container:
// the agent writes a Spec to file descriptor SpecFD, and reads from ErrorFD why the program couldn't
// be started, or nothing when it was.
package box

const (
	SpecFD  = 3
	ErrorFD = 4
)

// Spec is a container as the operating system sees it.
type Spec struct {
	Netns    string            // the Pod's network namespace, a path; empty is the node's
	Hostname string            //
	Sysctls  map[string]string // namespaced ones of the Pod
	Root     string            // an empty directory on which the root is assembled
	Program  string            // the image's program, seen inside as /NAME
	Mounts   []Mount           //
	Files    map[string]string // small files of the root: /etc/hosts, /etc/resolv.conf

	ReadOnlyRoot bool
	NoNewPrivs   bool
	UID, GID     int
	Groups       []int
	Capabilities []string // without CAP_, the whole set

	Argv []string
	Env  []string
	Dir  string
}

// Mount shows a file or directory of the node inside the container.
type Mount struct {
	From, To string
	ReadOnly bool
}
