package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"portunus.dev/cluster/network"
)

const (
	tellAfter     = time.Second // of trying to set a Pod up
	refreshPeriod = 10 * time.Second
)

// pod is one Pod on its way from being bound to being deleted.
type pod struct {
	agent           *Agent
	uid             types.UID
	namespace, name string
	began           time.Time
	dir             string // of its volumes

	changed chan struct{} // has an element when the status may have changed
	stop    chan struct{} // closed when it is to end
	gone    chan struct{} // closed when its object is gone: nothing is to wait any longer
	ended   chan struct{} // closed when nothing of it runs

	inits, mains []*container

	writing   sync.Mutex // of the status, by one at a time
	mu        sync.Mutex
	object    *v1.Pod
	deadline  time.Time // of its termination
	network   *network.PodNetwork
	ip        string
	problem   string                // why it can't be set up
	tokens    map[string]boundToken // by volume and path
	lastWrite *v1.PodStatus
}

func newPod(a *Agent, object *v1.Pod) *pod {
	p := &pod{
		agent: a, uid: object.UID, namespace: object.Namespace, name: object.Name, began: time.Now(), object: object,
		dir:     filepath.Join(a.Volumes, "pods", string(object.UID)),
		changed: make(chan struct{}, 1), stop: make(chan struct{}), gone: make(chan struct{}), ended: make(chan struct{}),
		tokens: map[string]boundToken{},
	}
	for i := range object.Spec.InitContainers {
		p.inits = append(p.inits, newContainer(p, &object.Spec.InitContainers[i], true))
	}
	for i := range object.Spec.Containers {
		p.mains = append(p.mains, newContainer(p, &object.Spec.Containers[i], false))
	}
	return p
}

// update takes the newest version of the object.
func (p *pod) update(object *v1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.object = object
	// The control plane says of the Pods of a node that it doubts that they aren't ready; that is said anew.
	if p.lastWrite != nil && isReady(&object.Status) != isReady(p.lastWrite) {
		p.lastWrite = nil
	}
	if object.DeletionTimestamp != nil && p.deadline.IsZero() {
		grace := time.Duration(0)
		if object.DeletionGracePeriodSeconds != nil {
			grace = time.Duration(*object.DeletionGracePeriodSeconds) * time.Second
		}
		p.deadline = time.Now().Add(grace)
		close(p.stop)
	}
	p.notify()
}

func isReady(status *v1.PodStatus) bool {
	return slices.ContainsFunc(status.Conditions, func(condition v1.PodCondition) bool {
		return condition.Type == v1.PodReady && condition.Status == v1.ConditionTrue
	})
}

// vanish says that the object is gone.
func (p *pod) vanish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.deadline.IsZero() {
		p.deadline = time.Now()
		close(p.stop)
	}
	close(p.gone)
}

// notify has the status written, if it changed.
func (p *pod) notify() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *pod) spec() *v1.PodSpec { return &p.latest().Spec }

func (p *pod) latest() *v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.object
}

func (p *pod) address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ip
}

// run takes the Pod through its life.
func (p *pod) run(ctx context.Context) {
	go p.writeStatuses(ctx)
	p.notify()
	if p.setUp(ctx) {
		go p.refreshVolumes(ctx)
		p.runContainers()
	}
	p.tearDown()
	close(p.ended)
	p.notify()
	select {
	case <-p.stop:
		p.delete(ctx)
	case <-ctx.Done():
	}
}

// setUp makes the Pod's network and volumes, and tries again until it has them or is told to end.
func (p *pod) setUp(ctx context.Context) bool {
	pause := minBackoff
	for {
		err := p.setUpOnce(ctx)
		p.setProblem(err)
		if err == nil {
			return true
		}
		if !sleep(pause, p.stop, ctx.Done()) {
			return false
		}
		// What passes by itself, as what the API server doesn't know yet, is no news.
		if pause < tellAfter && 2*pause >= tellAfter {
			p.agent.Say("%s/%s: %v", p.namespace, p.name, err)
		}
		pause = min(2*pause, maxBackoff)
	}
}

// setProblem says in the status what keeps the Pod from being set up.
func (p *pod) setProblem(err error) {
	p.mu.Lock()
	p.problem = ""
	if err != nil {
		p.problem = err.Error()
	}
	p.mu.Unlock()
	p.notify()
}

func (p *pod) setUpOnce(ctx context.Context) error {
	if p.address() == "" {
		if err := p.setUpNetwork(); err != nil {
			return err
		}
	}
	if !p.spec().HostNetwork {
		if err := p.agent.hostPorts.set(p.uid, p.address(), p.spec()); err != nil {
			return fmt.Errorf("host ports: %w", err)
		}
	}
	return p.makeVolumes(ctx)
}

func (p *pod) setUpNetwork() error {
	ip := p.agent.IP
	var made *network.PodNetwork
	if !p.spec().HostNetwork {
		var err error
		if made, err = p.agent.network.Add(); err != nil {
			return err
		}
		ip = made.IP
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ip, p.network = ip, made
	return nil
}

// runContainers returns when no container runs, nor will again.
func (p *pod) runContainers() {
	stopSidecars := make(chan struct{})
	var sidecars []*container
	initialized := true
	for _, c := range p.inits {
		if c.sidecar {
			sidecars = append(sidecars, c)
			go c.run(stopSidecars)
			select {
			case <-c.hasStarted:
				continue
			case <-p.stop:
			}
		} else if c.run(p.stop); c.succeeded() {
			continue
		}
		initialized = false
		break
	}
	if initialized {
		var running sync.WaitGroup
		for _, c := range p.mains {
			running.Go(func() { c.run(p.stop) })
		}
		running.Wait()
	}
	// All at once, where the kubelet goes in reverse order: none waits for another here.
	close(stopSidecars)
	for _, c := range sidecars {
		<-c.finished
	}
}

// refreshVolumes keeps ConfigMaps, Secrets and tokens up to date while the Pod runs.
func (p *pod) refreshVolumes(ctx context.Context) {
	for sleep(refreshPeriod, p.ended, ctx.Done()) {
		if err := p.makeVolumes(ctx); err != nil {
			p.agent.Say("%s/%s: volumes: %v", p.namespace, p.name, err)
		}
	}
}

func (p *pod) tearDown() {
	p.mu.Lock()
	made := p.network
	p.network = nil
	p.mu.Unlock()
	if made != nil {
		if err := p.agent.hostPorts.set(p.uid, "", nil); err != nil {
			p.agent.Say("%s/%s: host ports: %v", p.namespace, p.name, err)
		}
		if err := p.agent.network.Remove(made); err != nil {
			p.agent.Say("%s/%s: remove the network: %v", p.namespace, p.name, err)
		}
	}
	if err := os.RemoveAll(p.dir); err != nil {
		p.agent.Say("%s/%s: remove the volumes: %v", p.namespace, p.name, err)
	}
}

// terminationDeadline is when a container that is told to end must have: the Pod's, or from now on when it is
// the container alone that ends.
func (p *pod) terminationDeadline(own *int64) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.deadline.IsZero() {
		return p.deadline
	}
	grace := int64(v1.DefaultTerminationGracePeriodSeconds)
	if p.object.Spec.TerminationGracePeriodSeconds != nil {
		grace = *p.object.Spec.TerminationGracePeriodSeconds
	}
	if own != nil {
		grace = *own
	}
	return time.Now().Add(time.Duration(grace) * time.Second)
}
