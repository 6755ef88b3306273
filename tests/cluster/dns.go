package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"portunus.dev/cluster/network"
)

// dnsTimeout of one question is short: one that was asked before there were rules is never answered.
const dnsTimeout = 300 * time.Millisecond

//go:embed addons/coredns.yaml
var corednsManifest []byte

// applyDNS creates CoreDNS's objects.
func applyDNS(ctx context.Context, client dynamic.Interface) error {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(corednsManifest), 4<<10)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("addons/coredns.yaml: %w", err)
		}
		resource, _ := meta.UnsafeGuessKindToResource(object.GroupVersionKind())
		var target dynamic.ResourceInterface = client.Resource(resource)
		if namespace := object.GetNamespace(); namespace != "" {
			target = client.Resource(resource).Namespace(namespace)
		}
		// Objects of kube-system wait for the API server to have made it.
		err := await(ctx, func(ctx context.Context) error {
			_, err := target.Create(ctx, object, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("create %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}

// resolve asks the cluster's DNS for a name, and so through kube-proxy.
func resolve(ctx context.Context) error {
	resolver := net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network_, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network_, net.JoinHostPort(network.DNSIP, "53"))
		},
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	_, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
	return err
}
