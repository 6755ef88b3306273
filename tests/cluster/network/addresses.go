// Package network makes the cluster's network in namespaces: the node, the Pods behind it, and a client
// that reaches it from outside. Pods are routed and not bridged, so that every packet passes the node's
// netfilter, and a Service's client keeps its address between Pods.
package network

import (
	"fmt"
	"net"
)

// The addresses of the cluster. LoadBalancer and client addresses are those that RFC 5737 keeps for tests.
const (
	PodCIDR          = "10.244.0.0/16"
	ServiceCIDR      = "10.96.0.0/16"
	ServiceIP        = "10.96.0.1"
	DNSIP            = "10.96.0.10"
	LoadBalancerCIDR = "203.0.113.0/24"
	NodeIP           = "192.168.7.2" // of the first node
	ClientIP         = "198.51.100.10"
	gatewayIP        = "198.51.100.1" // the node, as the client sees it
	ClientNetns      = "client"
	ClusterDomain    = "cluster.local"
)

// NodeName is the name of the node of that index, from 0.
func NodeName(index int) string { return fmt.Sprintf("node-%d", index+1) }

// NodeAddress is the InternalIP of the node of that index.
func NodeAddress(index int) string {
	ip := net.ParseIP(NodeIP).To4()
	ip[3] += byte(index)
	return ip.String()
}

// NodePodCIDR is the part of PodCIDR from which the node of that index gives addresses.
func NodePodCIDR(index int) string { return fmt.Sprintf("10.244.%d.0/24", index+1) }
