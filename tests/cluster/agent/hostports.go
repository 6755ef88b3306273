package agent

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// hostPorts are the ports of the node that lead to Pods: rules of nft that give a packet the Pod's address.
type hostPorts struct {
	table string

	mu    sync.Mutex
	rules map[types.UID]string
}

// set makes the rules of one Pod; a nil spec removes them.
func (h *hostPorts) set(uid types.UID, ip string, spec *v1.PodSpec) error {
	rules := ""
	if spec != nil {
		for _, c := range spec.Containers {
			for _, port := range c.Ports {
				if port.HostPort != 0 {
					protocol := strings.ToLower(string(port.Protocol))
					rules += fmt.Sprintf("fib daddr type local %s dport %d dnat to %s:%d\n", protocol, port.HostPort, ip, port.ContainerPort)
				}
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if rules == h.rules[uid] {
		return nil
	}
	if h.rules == nil {
		h.rules = map[types.UID]string{}
	}
	h.rules[uid] = rules
	if rules == "" {
		delete(h.rules, uid)
	}
	return h.apply()
}

// apply replaces the whole table at once.
func (h *hostPorts) apply() error {
	var all strings.Builder
	for _, rules := range h.rules {
		all.WriteString(rules)
	}
	script := fmt.Sprintf(`table ip %[1]s
delete table ip %[1]s
table ip %[1]s {
	chain prerouting {
		type nat hook prerouting priority -100
		%[2]s	}
	chain output {
		type nat hook output priority -100
		%[2]s	}
}
`, h.table, all.String())
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(output))
	}
	return nil
}
