package agent

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// writeStatuses writes the status each time that it changes, until the Pod's object is gone.
func (p *pod) writeStatuses(ctx context.Context) {
	for {
		select {
		case <-p.changed:
		case <-p.gone:
			return
		case <-ctx.Done():
			return
		}
		if !p.writeStatus(ctx) {
			return
		}
	}
}

// writeStatus writes the present status, trying again while the API server can't be reached, and reports
// whether there is still an object to write to.
func (p *pod) writeStatus(ctx context.Context) bool {
	p.writing.Lock()
	defer p.writing.Unlock()
	for {
		status := p.status()
		p.mu.Lock()
		last := p.lastWrite
		p.mu.Unlock()
		if last != nil && apiequality.Semantic.DeepEqual(*last, status) {
			return true
		}
		err := p.patchStatus(ctx, &status)
		if err == nil {
			p.mu.Lock()
			p.lastWrite = &status
			p.mu.Unlock()
			return true
		}
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return false
		}
		if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
			p.agent.Say("%s/%s: status: %v", p.namespace, p.name, err)
		}
		if !sleep(retryInterval, p.gone, ctx.Done()) {
			return false
		}
	}
}

// patchStatus leaves others' conditions as they are; the uid keeps it from writing to a successor of the name.
func (p *pod) patchStatus(ctx context.Context, status *v1.PodStatus) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.uid},
		"status":   status,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err = p.agent.Client.CoreV1().Pods(p.namespace).Patch(ctx, p.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// delete removes the object of a Pod that has ended, trying again until it is gone.
func (p *pod) delete(ctx context.Context) {
	if !p.writeStatus(ctx) {
		return
	}
	for {
		err := p.deleteOnce(ctx)
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return
		}
		if !sleep(retryInterval, p.gone, ctx.Done()) {
			return
		}
	}
}

func (p *pod) deleteOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	options := metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: &metav1.Preconditions{UID: &p.uid}}
	return p.agent.Client.CoreV1().Pods(p.namespace).Delete(ctx, p.name, options)
}

// status is the Pod's as the kubelet would tell it.
func (p *pod) status() v1.PodStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := v1.PodStatus{
		ObservedGeneration: p.object.Generation,
		HostIP:             p.agent.IP,
		HostIPs:            []v1.HostIP{{IP: p.agent.IP}},
		StartTime:          ptr.To(metav1.NewTime(p.began.Truncate(time.Second))),
		Message:            p.problem,
	}
	if p.ip != "" {
		status.PodIP = p.ip
		status.PodIPs = []v1.PodIP{{IP: p.ip}}
	}
	for _, c := range p.inits {
		status.InitContainerStatuses = append(status.InitContainerStatuses, c.status())
	}
	for _, c := range p.mains {
		status.ContainerStatuses = append(status.ContainerStatuses, c.status())
	}
	status.Phase = p.phase(&status)
	status.Conditions = p.conditions(&status)
	return status
}

// initialized says whether all init containers have done their part.
func (p *pod) initialized(status *v1.PodStatus) bool {
	for i, c := range p.inits {
		s := &status.InitContainerStatuses[i]
		done := s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
		if c.sidecar {
			done = closed(c.hasStarted)
		}
		if !done {
			return false
		}
	}
	return true
}

func (p *pod) phase(status *v1.PodStatus) v1.PodPhase {
	ended := closed(p.ended)
	failed, waiting := false, 0
	for _, s := range slices.Concat(status.InitContainerStatuses, status.ContainerStatuses) {
		exit := s.State.Terminated
		if exit == nil {
			// It was to start again, which it won't if the Pod has ended.
			exit = s.LastTerminationState.Terminated
		}
		failed = failed || exit != nil && exit.ExitCode != 0
	}
	for _, s := range status.ContainerStatuses {
		if s.State.Waiting != nil && s.LastTerminationState.Terminated == nil {
			waiting++
		}
	}
	switch {
	case ended && (failed || waiting > 0):
		return v1.PodFailed
	case ended:
		return v1.PodSucceeded
	case !p.initialized(status) || waiting > 0:
		return v1.PodPending
	}
	return v1.PodRunning
}

func (p *pod) conditions(status *v1.PodStatus) []v1.PodCondition {
	terminal := status.Phase == v1.PodSucceeded || status.Phase == v1.PodFailed
	initialized := p.initialized(status)
	ready := initialized && !terminal
	for _, s := range status.ContainerStatuses {
		ready = ready && s.Ready
	}
	for i, c := range p.inits {
		if c.sidecar {
			ready = ready && status.InitContainerStatuses[i].Ready
		}
	}
	gated := ready
	for _, gate := range p.object.Spec.ReadinessGates {
		open := false
		for _, condition := range p.object.Status.Conditions {
			open = open || condition.Type == gate.ConditionType && condition.Status == v1.ConditionTrue
		}
		gated = gated && open
	}
	reason := ""
	switch {
	case status.Phase == v1.PodSucceeded:
		reason = "PodCompleted"
	case terminal:
		reason = "PodFailed"
	case !ready:
		reason = "ContainersNotReady"
	}
	gatedReason := reason
	if ready && !gated {
		gatedReason = "ReadinessGatesNotReady"
	}
	return []v1.PodCondition{
		p.condition(v1.PodReadyToStartContainers, p.network != nil || p.ip == p.agent.IP, ""),
		p.condition(v1.PodInitialized, initialized, ""),
		p.condition(v1.ContainersReady, ready, reason),
		p.condition(v1.PodReady, gated, gatedReason),
		p.condition(v1.PodScheduled, true, ""),
	}
}

// condition keeps the time of the last change that was written.
func (p *pod) condition(kind v1.PodConditionType, is bool, reason string) v1.PodCondition {
	condition := v1.PodCondition{
		Type: kind, Status: v1.ConditionFalse, Reason: reason,
		ObservedGeneration: p.object.Generation, LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second)),
	}
	if is {
		condition.Status = v1.ConditionTrue
	}
	previous := p.object.Status.Conditions
	if p.lastWrite != nil {
		previous = p.lastWrite.Conditions
	}
	for _, old := range previous {
		if old.Type == kind && old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		}
	}
	return condition
}

func (c *container) status() v1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := "namespaces://" + string(c.pod.uid) + "/" + c.spec.Name
	status := v1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, Ready: c.ready, Started: ptr.To(c.started),
		RestartCount: c.restarts, State: c.state, LastTerminationState: c.last,
	}
	// An ordinary init container is ready once it has succeeded.
	if c.init && !c.sidecar {
		status.Ready = c.state.Terminated != nil && c.state.Terminated.ExitCode == 0
	}
	if len(c.logStarts) > 0 {
		status.ContainerID = id
	}
	return status
}
