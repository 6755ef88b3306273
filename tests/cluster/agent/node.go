package agent

import (
	"context"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	kubeletPort   = 10250
	leaseDuration = 40 * time.Second
	leaseInterval = 2 * time.Second
	retryInterval = 200 * time.Millisecond
)

// capacity is more than the machine has: the scheduler is to bind whatever a test makes, up to the addresses.
var capacity = v1.ResourceList{
	v1.ResourceCPU:              resource.MustParse("64"),
	v1.ResourceMemory:           resource.MustParse("256Gi"),
	v1.ResourceEphemeralStorage: resource.MustParse("256Gi"),
	v1.ResourcePods:             resource.MustParse("250"),
}

// allWell is what the Node says of itself, always.
func allWell() []v1.NodeCondition {
	now := metav1.Now()
	condition := func(kind v1.NodeConditionType, status v1.ConditionStatus, reason string) v1.NodeCondition {
		return v1.NodeCondition{Type: kind, Status: status, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	return []v1.NodeCondition{
		condition(v1.NodeReady, v1.ConditionTrue, "KubeletReady"),
		condition(v1.NodeMemoryPressure, v1.ConditionFalse, "KubeletHasSufficientMemory"),
		condition(v1.NodeDiskPressure, v1.ConditionFalse, "KubeletHasNoDiskPressure"),
		condition(v1.NodePIDPressure, v1.ConditionFalse, "KubeletHasSufficientPID"),
	}
}

// register makes the Node, ready; it tries again until the context ends.
func (a *Agent) register(ctx context.Context) error {
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: a.Node,
			Labels: map[string]string{
				v1.LabelHostname: a.Node, v1.LabelOSStable: "linux", v1.LabelArchStable: "amd64",
				v1.LabelTopologyZone: a.Node, v1.LabelTopologyRegion: "test",
			},
		},
		Spec: v1.NodeSpec{PodCIDR: a.PodCIDR, PodCIDRs: []string{a.PodCIDR}},
		Status: v1.NodeStatus{
			Capacity:    capacity,
			Allocatable: capacity,
			Addresses: []v1.NodeAddress{
				{Type: v1.NodeInternalIP, Address: a.IP},
				{Type: v1.NodeHostName, Address: a.Node},
			},
			DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: kubeletPort}},
			NodeInfo: v1.NodeSystemInfo{
				KubeletVersion: "v1.36.3", OperatingSystem: "linux", Architecture: "amd64",
				ContainerRuntimeVersion: "namespaces://1", OSImage: "none",
			},
			Conditions: allWell(),
		},
	}
	for {
		_, err := a.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) {
			return nil
		}
		if !sleep(retryInterval, ctx.Done()) {
			return err
		}
	}
}

// heartbeat renews the node's Lease, which is how the control plane knows that the agent lives.
func (a *Agent) heartbeat(ctx context.Context) {
	for {
		err := a.renewLease(ctx)
		if err == nil {
			err = a.stayReady(ctx)
		}
		pause := leaseInterval
		if err != nil {
			pause = time.Second
		}
		if !sleep(pause, ctx.Done()) {
			return
		}
	}
}

func (a *Agent) renewLease(ctx context.Context) error {
	leases := a.Client.CoordinationV1().Leases("kube-node-lease")
	now := metav1.NewMicroTime(time.Now())
	spec := coordination.LeaseSpec{
		HolderIdentity:       ptr.To(a.Node),
		LeaseDurationSeconds: ptr.To(int32(leaseDuration / time.Second)),
		RenewTime:            &now,
	}
	// A Lease can only be updated from the version that was read.
	lease, err := leases.Get(ctx, a.Node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease := &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Name: a.Node}, Spec: spec}
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	} else if err == nil {
		lease.Spec = spec
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	return err
}

// stayReady says again that all is well if the control plane doubts it, as it does when the API server was away
// for longer than a Lease lasts.
func (a *Agent) stayReady(ctx context.Context) error {
	node, err := a.Client.CoreV1().Nodes().Get(ctx, a.Node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == v1.NodeReady && condition.Status == v1.ConditionTrue {
			return nil
		}
	}
	node.Status.Conditions = allWell()
	_, err = a.Client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}
