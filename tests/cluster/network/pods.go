package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const unreachable = unix.RTN_UNREACHABLE

// podGateway is the next hop of every Pod: the node answers for it on whichever link it is asked.
var podGateway = net.ParseIP(NodeIP)

// Pods gives Pods of one node their network.
type Pods struct {
	nodeIP string

	mu          sync.Mutex
	first, last uint32
	next        uint32
	used        map[uint32]bool
}

// PodNetwork is one Pod's.
type PodNetwork struct {
	IP    string
	Netns string // path
	name  string
	link  string
}

// NewPods gives the addresses of a node's podCIDR; the probes of the node come from nodeIP.
func NewPods(podCIDR, nodeIP string) (*Pods, error) {
	_, network, err := net.ParseCIDR(podCIDR)
	if err != nil {
		return nil, err
	}
	ones, bits := network.Mask.Size()
	base := binary.BigEndian.Uint32(network.IP.To4())
	first := base + 2
	return &Pods{nodeIP: nodeIP, first: first, last: base + 1<<(bits-ones) - 2, next: first, used: map[uint32]bool{}}, nil
}

// allocate takes the next address in turn: one that was just given back rests as long as can be.
func (p *Pods) allocate() (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range p.last - p.first + 1 {
		address := p.next
		if p.next++; p.next > p.last {
			p.next = p.first
		}
		if !p.used[address] {
			p.used[address] = true
			return address, nil
		}
	}
	return 0, errors.New("the node has no Pod address left")
}

func (p *Pods) release(address uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, address)
}

// Add makes a network namespace with an address, reached by a link of its own from the node.
func (p *Pods) Add() (_ *PodNetwork, err error) {
	address, err := p.allocate()
	if err != nil {
		return nil, err
	}
	ip := make(net.IP, 4)
	binary.BigEndian.PutUint32(ip, address)
	suffix := fmt.Sprintf("%d-%d", ip[2], ip[3])
	n := &PodNetwork{IP: ip.String(), name: "pod-" + suffix, link: "pod" + suffix}
	n.Netns = NetnsPath(n.name)
	defer func() {
		if err != nil {
			_ = p.Remove(n)
		}
	}()
	ns, err := newNamed(n.name)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: n.link}, PeerName: insideLink, PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("add the Pod's link: %w", err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return nil, err
	}
	err = within(ns, func(h *netlink.Handle, eth netlink.Link) error {
		if err := h.AddrAdd(eth, &netlink.Addr{IPNet: netlink.NewIPNet(ip)}); err != nil {
			return err
		}
		index := eth.Attrs().Index
		if err := h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: netlink.NewIPNet(podGateway), Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{LinkIndex: index, Gw: podGateway})
	})
	if err != nil {
		return nil, fmt.Errorf("set up the Pod's network: %w", err)
	}
	// After the Pod's side is up, so that nothing meets a link without an owner.
	return n, addRoute(&netlink.Route{LinkIndex: veth.Index, Dst: netlink.NewIPNet(ip), Scope: netlink.SCOPE_LINK, Src: net.ParseIP(p.nodeIP)})
}

// Remove takes the network away and gives the address back.
func (p *Pods) Remove(n *PodNetwork) error {
	var failed []error
	if link, err := netlink.LinkByName(n.link); err == nil {
		failed = append(failed, netlink.LinkDel(link))
	}
	if err := netns.DeleteNamed(n.name); err != nil && !errors.Is(err, unix.ENOENT) {
		failed = append(failed, err)
	}
	p.release(binary.BigEndian.Uint32(net.ParseIP(n.IP).To4()))
	return errors.Join(failed...)
}
