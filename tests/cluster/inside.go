package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"portunus.dev/cluster/agent"
	"portunus.dev/cluster/network"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

const (
	upTimeout      = 3 * time.Minute
	commandGrace   = 10 * time.Second // of the command when `up` is told to end
	agentDirectory = "/run/portunus-cluster"
)

// runInside is the cluster itself, in its namespaces. When it ends, pid 1 does, and with that all there is.
func runInside(args []string) error {
	var opts options
	if err := json.Unmarshal([]byte(args[0]), &opts); err != nil {
		return err
	}
	// Where nft and ip lie may not be in a user's PATH.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	upCtx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	c := &cluster{options: &opts}
	if err := c.up(ctx, upCtx); err != nil {
		if ctx.Err() != nil {
			return exitCode(130)
		}
		return err
	}
	if len(opts.Command) == 0 {
		c.tell()
		<-ctx.Done()
		return nil
	}
	say("ready in %.1f s", time.Since(opts.Started).Seconds())
	return c.runCommand(ctx)
}

// cluster is what `inside` brings up.
type cluster struct {
	*options
	ca         *authority
	supervisor *supervisor
	client     kubernetes.Interface
	dynamic    dynamic.Interface
}

// up starts every part, and returns when all are ready. Parts live as long as ctx; upCtx bounds the wait.
func (c *cluster) up(ctx, upCtx context.Context) error {
	self, pod, err := programs()
	if err != nil {
		return err
	}
	if err := c.prepare(self); err != nil {
		return err
	}
	c.supervisor = newSupervisor(self, c.State.logs())
	for _, part := range []component{etcdPart(c.State), apiServerPart(c.State, c.ca)} {
		if err := c.supervisor.run(upCtx, part); err != nil {
			return err
		}
	}
	config, err := c.restConfig(c.State.insideKubeconfig())
	if err != nil {
		return err
	}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return err
	}
	if err := c.serveSockets(ctx); err != nil {
		return err
	}
	if err := runCloud(ctx, c.client); err != nil {
		return err
	}
	parts := []func() error{
		func() error { return c.supervisor.run(upCtx, controllerManagerPart(c.State)) },
		func() error { return c.supervisor.run(upCtx, schedulerPart(c.State)) },
		func() error { return c.startNodes(ctx, self, pod) },
		func() error { return c.startProxy(upCtx) },
		func() error { return c.startDNS(upCtx) },
	}
	failed := make([]error, len(parts)+1)
	var starting sync.WaitGroup
	for i, part := range parts {
		starting.Go(func() { failed[i] = part() })
	}
	starting.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	return await(upCtx, c.settled)
}

// prepare makes what is there before any process: network, credentials, and links to programs.
func (c *cluster) prepare(self string) (err error) {
	for name, target := range map[string]string{"kubectl": self, "helm": self, "cluster": self} {
		if err := os.Symlink(target, filepath.Join(c.State.bin(), name)); err != nil {
			return err
		}
	}
	if err := nodeResolvConf(); err != nil {
		return err
	}
	if err := network.SetUpNode(c.Nodes); err != nil {
		return err
	}
	c.ca, err = setUpCredentials(c.options)
	return err
}

// nodeResolvConf lets commands on the node resolve the cluster's names.
func nodeResolvConf() error {
	const path, own = "/etc/resolv.conf", "/run/resolv.conf"
	text := fmt.Sprintf("nameserver %s\nsearch default.svc.%[2]s svc.%[2]s %[2]s\n", network.DNSIP, network.ClusterDomain)
	if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err != nil {
		return nil
	}
	if _, err := os.Stat(path); err != nil {
		// It leads to the host's /run, which isn't here.
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, []byte(text), 0o644)
	}
	return unix.Mount(own, path, "", unix.MS_BIND, "")
}

func (c *cluster) restConfig(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	// No limit of its own; the API server has one.
	config.QPS = -1
	return config, nil
}

// serveSockets opens the ways in from outside.
func (c *cluster) serveSockets(ctx context.Context) error {
	api, err := net.Listen("unix", c.State.apiSocket())
	if err != nil {
		return err
	}
	go relay(api, "tcp", net.JoinHostPort("127.0.0.1", apiPort))
	ctl, err := net.Listen("unix", c.State.ctlSocket())
	if err != nil {
		return err
	}
	go serveCtl(ctx, ctl, c.supervisor)
	return nil
}

func (c *cluster) startNodes(ctx context.Context, self, pod string) error {
	images := agent.Images{
		"echo":    {Program: pod, Args: []string{"echo"}},
		"curl":    {Program: pod, Args: []string{"get"}},
		"sleep":   {Program: pod, Args: []string{"sleep"}},
		"coredns": {Program: self, Args: []string{"coredns"}},
	}
	for name, program := range c.Images {
		images[name] = agent.Image{Program: program}
	}
	apiHost, servicePort := network.ServiceIP, "443"
	if c.Without["kube-proxy"] {
		apiHost, servicePort = network.NodeIP, apiPort
	}
	for i := range c.Nodes {
		name := network.NodeName(i)
		config, err := c.restConfig(c.State.pki(name))
		if err != nil {
			return err
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		err = agent.Start(ctx, agent.Config{
			Node: name, IP: network.NodeAddress(i), PodCIDR: network.NodePodCIDR(i),
			Client: client, Images: images, PodProgram: pod,
			Volumes: filepath.Join(agentDirectory, name), Logs: c.State.logs(),
			APIHost: apiHost, APIPort: servicePort,
			CA: c.State.pki("ca.crt"), Cert: c.State.pki(name + ".crt"), Key: c.State.pki(name + ".key"),
			OneUser: oneUser(), Say: say,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// oneUser says whether this user namespace has no other user than root.
func oneUser() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside, count int64
	if err == nil {
		_, err = fmt.Sscan(string(text), &inside, &outside, &count)
	}
	return err == nil && count == 1
}

func (c *cluster) startProxy(upCtx context.Context) error {
	if c.Without["kube-proxy"] {
		return nil
	}
	proxy, err := kubeProxyPart(c.State)
	if err != nil {
		return err
	}
	return c.supervisor.run(upCtx, proxy)
}

func (c *cluster) startDNS(upCtx context.Context) error {
	if c.Without["coredns"] {
		return nil
	}
	return applyDNS(upCtx, c.dynamic)
}

// settled asks whether the cluster does what it is for.
func (c *cluster) settled(ctx context.Context) error {
	nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		for _, taint := range node.Spec.Taints {
			if taint.Key == v1.TaintNodeNotReady {
				return fmt.Errorf("%s isn't ready", node.Name)
			}
		}
	}
	// Pods of the default namespace need it; its controller makes it.
	if _, err := c.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return err
	}
	if c.Without["coredns"] || c.Without["kube-proxy"] {
		return nil
	}
	if err := resolve(ctx); err != nil {
		return fmt.Errorf("the cluster's DNS: %w", err)
	}
	return nil
}

// tell says how the cluster is reached.
func (c *cluster) tell() {
	say("ready in %.1f s; it lasts until Ctrl-C or SIGTERM", time.Since(c.Started).Seconds())
	say("from here:   export KUBECONFIG=%s", c.State.kubeconfig())
	say("on the node: portunus-cluster enter --state %s -- kubectl get pods -A", c.State)
}

// runCommand runs the command of `up` on the node, and ends it when `up` is told to end.
func (c *cluster) runCommand(ctx context.Context) error {
	cmd := insideCommand(c.State, c.Dir, c.Command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return commandResult(err)
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		return commandResult(err)
	case <-time.After(commandGrace):
		return errors.New("the command didn't end in time; it is killed")
	}
}
