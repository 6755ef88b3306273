package network

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const (
	nodeLink   = "node0"
	clientLink = "client0"
	insideLink = "eth0"
)

// SetUpNode makes this process's network namespace the nodes' (all nodes share it), and beside it the client's.
func SetUpNode(nodes int) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	// A load comes from one address and meets its own ports again soon: a connection that is over must not
	// lead the next one of its port to a Pod that is gone. Where there is no conntrack, there is nothing to set.
	_ = os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait", []byte("1"), 0o644)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("make the node a router: %w", err)
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: nodeLink}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add the link %s: %w (does the kernel have bridge?)", nodeLink, err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return err
	}
	for i := range nodes {
		if err := addAddress(bridge, NodeAddress(i)+"/24"); err != nil {
			return err
		}
	}
	// A destination needs a route before kube-proxy can give it another. Beyond these there is nothing, and a
	// connection there fails at once.
	for _, cidr := range []string{ServiceCIDR, LoadBalancerCIDR} {
		if err := addRoute(&netlink.Route{LinkIndex: bridge.Index, Dst: mustCIDR(cidr), Src: net.ParseIP(NodeIP)}); err != nil {
			return err
		}
	}
	if err := addRoute(&netlink.Route{Dst: mustCIDR("0.0.0.0/0"), Type: unreachable}); err != nil {
		return err
	}
	if err := addRoute(&netlink.Route{Dst: mustCIDR(PodCIDR), Type: unreachable}); err != nil {
		return err
	}
	return setUpClient()
}

// setUpClient makes the client's network namespace, whose only way is through the node.
func setUpClient() error {
	ns, err := newNamed(ClientNetns)
	if err != nil {
		return err
	}
	defer ns.Close()
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: clientLink},
		PeerName:      insideLink,
		PeerNamespace: netlink.NsFd(ns),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add the client's link: %w", err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	if err := addAddress(veth, gatewayIP+"/24"); err != nil {
		return err
	}
	return within(ns, func(h *netlink.Handle, eth netlink.Link) error {
		address, err := netlink.ParseAddr(ClientIP + "/24")
		if err != nil {
			return err
		}
		if err := h.AddrAdd(eth, address); err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(gatewayIP)})
	})
}

// within configures a namespace whose loopback and eth0 it brings up first.
func within(ns netns.NsHandle, configure func(*netlink.Handle, netlink.Link) error) error {
	handle, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer handle.Close()
	loopback, err := handle.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := handle.LinkSetUp(loopback); err != nil {
		return err
	}
	eth, err := handle.LinkByName(insideLink)
	if err != nil {
		return err
	}
	if err := handle.LinkSetUp(eth); err != nil {
		return err
	}
	return configure(handle, eth)
}

// newNamed makes a network namespace that `ip netns` knows by name, and leaves the caller in its own.
func newNamed(name string) (netns.NsHandle, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		return netns.None(), err
	}
	defer here.Close()
	made, err := netns.NewNamed(name)
	if err != nil {
		return netns.None(), fmt.Errorf("make the network namespace %s: %w", name, err)
	}
	if err := netns.Set(here); err != nil {
		// A thread in the wrong namespace must not serve another goroutine.
		panic(fmt.Sprintf("go back to the node's network namespace: %v", err))
	}
	return made, nil
}

const netnsDir = "/run/netns"

// NetnsPath is the file of a namespace that has a name.
func NetnsPath(name string) string { return filepath.Join(netnsDir, name) }

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func addAddress(link netlink.Link, cidr string) error {
	address, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("add the address %s to %s: %w", cidr, link.Attrs().Name, err)
	}
	return nil
}

func addRoute(route *netlink.Route) error {
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("add the route %s: %w", route.Dst, err)
	}
	return nil
}

// mustCIDR is for the constants of this package.
func mustCIDR(cidr string) *net.IPNet {
	_, network, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err)
	}
	return network
}
