// Package agent is the kubelet of this cluster: it runs the Pods that are bound to a node, each in a network
// namespace of its own and each container as a process, and tells the API server how they are.
package agent

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"portunus.dev/cluster/network"
)

// Config is what an agent needs to know.
type Config struct {
	Node, IP, PodCIDR string
	Client            kubernetes.Interface // as the node's user
	Images            Images
	PodProgram        string // begins containers
	Volumes, Logs     string // directories
	APIHost, APIPort  string // where Pods find the API server
	CA, Cert, Key     string // files: the authority of clients, and the kubelet's own certificate
	OneUser           bool   // in a user namespace: no other user can be had
	Say               func(format string, args ...any)
}

// Agent runs the Pods of one node.
type Agent struct {
	Config
	network   *network.Pods
	hostPorts hostPorts
	emptyRoot string
	sayOneUID sync.Once

	mu   sync.Mutex
	pods map[types.UID]*pod
}

// Start registers the node and runs its Pods until the context ends. It returns when the node is registered.
func Start(ctx context.Context, config Config) error {
	pods, err := network.NewPods(config.PodCIDR, config.IP)
	if err != nil {
		return err
	}
	a := &Agent{Config: config, network: pods, emptyRoot: filepath.Join(config.Volumes, "root"), pods: map[types.UID]*pod{}}
	a.hostPorts.table = "hostports-" + config.Node
	if err := os.MkdirAll(a.emptyRoot, 0o755); err != nil {
		return err
	}
	if err := a.serveKubelet(ctx); err != nil {
		return fmt.Errorf("serve the kubelet's API: %w", err)
	}
	if err := a.register(ctx); err != nil {
		return fmt.Errorf("register %s: %w", a.Node, err)
	}
	go a.heartbeat(ctx)
	go a.watch(ctx)
	return nil
}

// watch follows the Pods that are bound to the node. Unlike a kubelet it doesn't wait for up to a minute before it
// asks again when the API server was away: scenarios take it away often.
func (a *Agent) watch(ctx context.Context) {
	selector := fields.OneTermEqualSelector("spec.nodeName", a.Node)
	source := cache.NewListWatchFromClient(a.Client.CoreV1().RESTClient(), "pods", "", selector)
	reflector := cache.NewReflectorWithOptions(source, &v1.Pod{}, assigned{a, ctx}, cache.ReflectorOptions{
		Backoff: &wait.Backoff{Duration: retryInterval, Factor: 1.5, Steps: 5, Cap: time.Second},
	})
	reflector.RunWithContext(ctx)
}

// assigned passes on what the API server says of the node's Pods.
type assigned struct {
	agent *Agent
	ctx   context.Context
}

func (s assigned) Add(object any) error {
	s.agent.observe(s.ctx, object.(*v1.Pod))
	return nil
}

func (s assigned) Update(object any) error { return s.Add(object) }

func (s assigned) Delete(object any) error {
	s.agent.forget(object.(*v1.Pod).UID)
	return nil
}

// Replace takes all Pods there are; the others went while nobody watched.
func (s assigned) Replace(objects []any, _ string) error {
	there := map[types.UID]bool{}
	for _, object := range objects {
		there[object.(*v1.Pod).UID] = true
		s.agent.observe(s.ctx, object.(*v1.Pod))
	}
	for _, uid := range s.agent.known() {
		if !there[uid] {
			s.agent.forget(uid)
		}
	}
	return nil
}

func (s assigned) Resync() error { return nil }

// observe starts a Pod that is new, and tells the others what changed.
func (a *Agent) observe(ctx context.Context, object *v1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[object.UID]
	if p == nil {
		p = newPod(a, object)
		a.pods[object.UID] = p
		go p.run(ctx)
	}
	p.update(object)
}

// forget ends a Pod whose object is gone: it was deleted by force, or by this agent at its end.
func (a *Agent) forget(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pods[uid]; p != nil {
		p.vanish()
		delete(a.pods, uid)
	}
}

func (a *Agent) known() []types.UID {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.pods))
}

// find is the Pod of that name that came last.
func (a *Agent) find(namespace, name string) *pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found *pod
	for _, p := range a.pods {
		if p.namespace == namespace && p.name == name && (found == nil || p.began.After(found.began)) {
			found = p
		}
	}
	return found
}

// sleep waits, and reports false when one of the channels closed meanwhile.
func sleep(d time.Duration, until ...<-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	var first, second <-chan struct{}
	if len(until) > 0 {
		first = until[0]
	}
	if len(until) > 1 {
		second = until[1]
	}
	select {
	case <-timer.C:
		return true
	case <-first:
	case <-second:
	}
	return false
}
