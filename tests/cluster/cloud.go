package main

import (
	"context"
	"fmt"
	"net"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	"portunus.dev/cluster/network"
)

// cloud is what a cloud provider is to Services of type LoadBalancer: it gives them an address, which
// kube-proxy then serves.
type cloud struct {
	client   kubernetes.Interface
	services listers.ServiceLister
	queue    workqueue.TypedRateLimitingInterface[cache.ObjectName]
}

// runCloud works until the context ends.
func runCloud(ctx context.Context, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services()
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](50*time.Millisecond, 5*time.Second)
	c := &cloud{client: client, services: services.Lister(), queue: workqueue.NewTypedRateLimitingQueue(limiter)}
	enqueue := func(object any) {
		if name, err := cache.DeletionHandlingObjectToName(object); err == nil {
			c.queue.Add(name)
		}
	}
	_, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, object any) { enqueue(object) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	context.AfterFunc(ctx, c.queue.ShutDown)
	go func() {
		factory.WaitForCacheSync(ctx.Done())
		for c.next(ctx) {
		}
	}()
	return nil
}

// next handles one Service; there is one worker, so no address is given twice.
func (c *cloud) next(ctx context.Context) bool {
	name, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(name)
	if err := c.reconcile(ctx, name); err != nil {
		c.queue.AddRateLimited(name)
		return true
	}
	c.queue.Forget(name)
	return true
}

func (c *cloud) reconcile(ctx context.Context, name cache.ObjectName) error {
	service, err := c.services.Services(name.Namespace).Get(name.Name)
	if err != nil {
		return nil
	}
	wants := service.Spec.Type == v1.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil && service.DeletionTimestamp == nil
	has := len(service.Status.LoadBalancer.Ingress) > 0
	if wants == has || service.Spec.LoadBalancerClass != nil {
		return nil
	}
	updated := service.DeepCopy()
	updated.Status.LoadBalancer.Ingress = nil
	if wants {
		ip, err := c.freeAddress(ctx, service.Spec.LoadBalancerIP)
		if err != nil {
			return err
		}
		updated.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: ip, IPMode: ptr.To(v1.LoadBalancerIPModeVIP)}}
	}
	_, err = c.client.CoreV1().Services(name.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	return err
}

// freeAddress is the wanted address if it is free, else the lowest free one. It asks the API server and not
// the cache, which may not have the address that was just given.
func (c *cloud) freeAddress(ctx context.Context, wanted string) (string, error) {
	services, err := c.client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	used := map[string]bool{}
	for _, service := range services.Items {
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			used[ingress.IP] = true
		}
	}
	ip, pool, err := net.ParseCIDR(network.LoadBalancerCIDR)
	if err != nil {
		return "", err
	}
	if parsed := net.ParseIP(wanted); parsed != nil && pool.Contains(parsed) && !used[wanted] {
		return wanted, nil
	}
	ip = ip.To4()
	for host := 1; host < 255; host++ {
		ip[3] = byte(host)
		if !used[ip.String()] {
			return ip.String(), nil
		}
	}
	return "", fmt.Errorf("no address of %s is left", network.LoadBalancerCIDR)
}
