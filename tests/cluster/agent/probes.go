package agent

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

// fastProbe is how often a probe is made until it first succeeds, whatever its period: tests shouldn't wait.
// Failures still count once per period.
const fastProbe = 100 * time.Millisecond

// The kubelet's own probers, from the node to the Pod.
var (
	httpProber = httpprobe.New(false)
	tcpProber  = tcpprobe.New()
	grpcProber = grpcprobe.New()
)

// probeAll makes the container's probes until the context ends, startup and liveness until health ends.
func (c *container) probeAll(ctx, health context.Context, unhealthy chan<- *v1.Probe) {
	fail := func(p *v1.Probe) func(bool) {
		return func(ok bool) {
			if !ok {
				select {
				case unhealthy <- p:
				default:
				}
			}
		}
	}
	if p := c.spec.StartupProbe; p != nil {
		startup, done := context.WithCancel(health)
		c.probe(startup, p, func(ok bool) {
			if ok {
				c.setStarted()
			} else {
				fail(p)(ok)
			}
			done()
		})
		done()
		if ctx.Err() != nil {
			return
		}
	}
	if p := c.spec.LivenessProbe; p != nil {
		go c.probe(health, p, fail(p))
	}
	if p := c.spec.ReadinessProbe; p != nil {
		c.probe(ctx, p, c.setReady)
	}
}

// probe makes one probe until the context ends, and reports each result that its thresholds make certain.
func (c *container) probe(ctx context.Context, p *v1.Probe, report func(ok bool)) {
	seconds := func(value, least int32) time.Duration { return time.Duration(max(value, least)) * time.Second }
	if !sleep(seconds(p.InitialDelaySeconds, 0), ctx.Done()) {
		return
	}
	period, timeout := seconds(p.PeriodSeconds, 1), seconds(p.TimeoutSeconds, 1)
	var successes, failures int32
	var succeeded bool
	var lastFailure time.Time
	for ctx.Err() == nil {
		err := c.probeOnce(ctx, p, timeout)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			succeeded = true
			failures = 0
			if successes++; successes >= p.SuccessThreshold {
				report(true)
			}
		} else {
			successes = 0
			if time.Since(lastFailure) >= period || succeeded {
				lastFailure = time.Now()
				if failures++; failures >= p.FailureThreshold {
					report(false)
				}
			}
		}
		pause := period
		if !succeeded {
			pause = min(fastProbe, period)
		}
		sleep(pause, ctx.Done())
	}
}

func (c *container) probeOnce(ctx context.Context, p *v1.Probe, timeout time.Duration) error {
	var result probe.Result
	var said string
	var err error
	switch {
	case p.HTTPGet != nil:
		action := p.HTTPGet.DeepCopy()
		port, err := c.port(action.Port)
		if err != nil {
			return err
		}
		action.Port = intstr.FromInt32(port)
		request, err := httpprobe.NewRequestForHTTPGetAction(action, c.spec, c.pod.address(), "probe")
		if err != nil {
			return err
		}
		result, said, err = httpProber.Probe(request, timeout)
		if err != nil {
			return err
		}
	case p.TCPSocket != nil:
		port, err := c.port(p.TCPSocket.Port)
		if err != nil {
			return err
		}
		host := p.TCPSocket.Host
		if host == "" {
			host = c.pod.address()
		}
		result, said, err = tcpProber.Probe(host, int(port), timeout)
		if err != nil {
			return err
		}
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		result, said, err = grpcProber.Probe(c.pod.address(), service, int(p.GRPC.Port), timeout)
		if err != nil {
			return err
		}
	case p.Exec != nil:
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return c.exec(ctx, p.Exec.Command)
	}
	if result == probe.Success || result == probe.Warning {
		return nil
	}
	return fmt.Errorf("probe: %s", said)
}

// port is a port by number, or by the name that the container gives it.
func (c *container) port(port intstr.IntOrString) (int32, error) {
	if port.Type == intstr.Int {
		return port.IntVal, nil
	}
	for _, named := range c.spec.Ports {
		if named.Name == port.StrVal {
			return named.ContainerPort, nil
		}
	}
	return 0, fmt.Errorf("container %s has no port named %q", c.spec.Name, port.StrVal)
}
