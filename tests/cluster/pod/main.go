// portunus-cluster-pod is the small program of the test cluster: it begins every container, is pid 1 of
// the cluster's namespaces, and is the images `echo`, `curl` and `sleep`. It is apart from
// portunus-cluster because each Pod starts it anew, and that one carries all of Kubernetes.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

var modes = map[string]func(args []string) error{
	"init":  runInit,
	"box":   runBox,
	"echo":  runEcho,
	"get":   runGet,
	"sleep": runSleep,
}

func main() {
	if len(os.Args) < 2 || modes[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: portunus-cluster-pod echo|get|sleep [ARGS...]")
		os.Exit(2)
	}
	if err := modes[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// runSleep does nothing until it is told to end.
func runSleep([]string) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
	return nil
}
