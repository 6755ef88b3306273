package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"portunus.dev/cluster/network"
)

const (
	apiPort    = "6443"
	etcdURL    = "http://127.0.0.1:2379"
	issuer     = "https://kubernetes.default.svc.cluster.local"
	insideURL  = "https://" + network.NodeIP + ":" + apiPort
	kubeletKey = "kubelet-client" // of the API server towards nodes
)

// setUpCredentials writes every certificate, key and kubeconfig of the cluster.
func setUpCredentials(opts *options) (*authority, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	st := opts.State
	if err := ca.writeFiles(st); err != nil {
		return nil, err
	}
	serving := []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
		"127.0.0.1", network.ServiceIP, network.NodeIP,
	}
	if err := ca.issueFiles(st, "apiserver", "kube-apiserver", nil, serving); err != nil {
		return nil, err
	}
	if err := ca.issueFiles(st, kubeletKey, "kube-apiserver-kubelet-client", []string{"system:masters"}, nil); err != nil {
		return nil, err
	}
	for _, user := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		if err := ca.writeKubeconfig(st.pki(user), insideURL, "system:"+user); err != nil {
			return nil, err
		}
	}
	for i := range opts.Nodes {
		name := network.NodeName(i)
		if err := ca.writeKubeconfig(st.pki(name), insideURL, "system:node:"+name, "system:nodes"); err != nil {
			return nil, err
		}
		if err := ca.issueFiles(st, name, name, nil, []string{name, network.NodeAddress(i)}); err != nil {
			return nil, err
		}
	}
	if err := ca.writeKubeconfig(st.insideKubeconfig(), insideURL, "admin", "system:masters"); err != nil {
		return nil, err
	}
	outside := fmt.Sprintf("https://127.0.0.1:%d", opts.HostPort)
	return ca, ca.writeKubeconfig(st.kubeconfig(), outside, "admin", "system:masters")
}

func etcdPart(st state) component {
	return component{
		name: "etcd",
		args: []string{
			"--data-dir=" + st.path("etcd"),
			"--unsafe-no-fsync",
			"--listen-client-urls=" + etcdURL,
			"--advertise-client-urls=" + etcdURL,
			"--listen-peer-urls=http://127.0.0.1:2380",
			"--log-level=warn",
		},
		ready: healthy(etcdURL+"/readyz", nil),
	}
}

func apiServerPart(st state, ca *authority) component {
	return component{
		name: "kube-apiserver",
		args: []string{
			"--secure-port=" + apiPort,
			"--advertise-address=" + network.NodeIP,
			"--etcd-servers=" + etcdURL,
			"--service-cluster-ip-range=" + network.ServiceCIDR,
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true",
			"--client-ca-file=" + st.pki("ca.crt"),
			"--tls-cert-file=" + st.pki("apiserver.crt"),
			"--tls-private-key-file=" + st.pki("apiserver.key"),
			"--service-account-issuer=" + issuer,
			"--service-account-key-file=" + st.pki("sa.pub"),
			"--service-account-signing-key-file=" + st.pki("sa.key"),
			"--kubelet-client-certificate=" + st.pki(kubeletKey+".crt"),
			"--kubelet-client-key=" + st.pki(kubeletKey+".key"),
			"--kubelet-certificate-authority=" + st.pki("ca.crt"),
			"--kubelet-preferred-address-types=InternalIP",
		},
		ready: healthy(insideURL+"/readyz", ca.cert),
	}
}

func controllerManagerPart(st state) component {
	return component{
		name: "kube-controller-manager",
		args: []string{
			"--kubeconfig=" + st.pki("kube-controller-manager"),
			"--authentication-kubeconfig=" + st.pki("kube-controller-manager"),
			"--authorization-kubeconfig=" + st.pki("kube-controller-manager"),
			"--service-account-private-key-file=" + st.pki("sa.key"),
			"--root-ca-file=" + st.pki("ca.crt"),
			"--cluster-signing-cert-file=" + st.pki("ca.crt"),
			"--cluster-signing-key-file=" + st.pki("ca.key"),
			"--use-service-account-credentials=true",
			"--leader-elect=false",
			"--bind-address=127.0.0.1",
			"--kube-api-qps=200", "--kube-api-burst=400",
		},
		ready: healthy("https://127.0.0.1:10257/healthz", nil),
	}
}

func schedulerPart(st state) component {
	return component{
		name: "kube-scheduler",
		args: []string{
			"--kubeconfig=" + st.pki("kube-scheduler"),
			"--authentication-kubeconfig=" + st.pki("kube-scheduler"),
			"--authorization-kubeconfig=" + st.pki("kube-scheduler"),
			"--leader-elect=false",
			"--bind-address=127.0.0.1",
			"--kube-api-qps=200", "--kube-api-burst=400",
		},
		ready: healthy("https://127.0.0.1:10259/healthz", nil),
	}
}

// proxyConfig differs from the defaults where a network namespace has no such thing (the sizes of conntrack),
// and in that changes reach the rules sooner.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: node-1
clientConnection: {kubeconfig: %q}
clusterCIDR: %s
nftables: {minSyncPeriod: 100ms}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

func kubeProxyPart(st state) (component, error) {
	config := st.path("kube-proxy.yaml")
	text := fmt.Sprintf(proxyConfig, st.pki("kube-proxy"), network.PodCIDR)
	return component{
		name:  "kube-proxy",
		args:  []string{"--config=" + config},
		ready: healthy("http://127.0.0.1:10256/healthz", nil),
	}, os.WriteFile(config, []byte(text), 0o644)
}

// healthy asks a URL of this cluster for 200. Without an authority any certificate will do: some parts make
// their own.
func healthy(url string, authority *x509.Certificate) func(context.Context) error {
	config := &tls.Config{InsecureSkipVerify: authority == nil}
	if authority != nil {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AddCert(authority)
	}
	client := &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true},
	}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		if err != nil || response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s %s", url, response.Status, body)
		}
		return nil
	}
}
