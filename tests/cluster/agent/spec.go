package agent

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
	"portunus.dev/cluster/box"
	"portunus.dev/cluster/network"
)

const (
	apiTimeout = 10 * time.Second
	defaultEnv = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"
	// nonRootUser is who a container is whose Pod wants another user than root and doesn't say which: what an
	// image made for that would say.
	nonRootUser = 65532
)

// defaultCapabilities are those that container runtimes give to root.
var defaultCapabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

type user struct{ uid, gid int }

// user is whom the container runs as.
func (c *container) user() user {
	if c.pod.agent.OneUser {
		return user{}
	}
	return c.wantedUser()
}

func (c *container) wantedUser() user {
	var u user
	var uid, gid *int64
	nonRoot := false
	if s := c.pod.spec().SecurityContext; s != nil {
		uid, gid = s.RunAsUser, s.RunAsGroup
		nonRoot = s.RunAsNonRoot != nil && *s.RunAsNonRoot
	}
	if s := c.spec.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			uid = s.RunAsUser
		}
		if s.RunAsGroup != nil {
			gid = s.RunAsGroup
		}
		nonRoot = nonRoot || s.RunAsNonRoot != nil && *s.RunAsNonRoot
	}
	switch {
	case uid != nil:
		u.uid = int(*uid)
	case nonRoot:
		u = user{nonRootUser, nonRootUser}
	}
	if gid != nil {
		u.gid = int(*gid)
	}
	return u
}

// boxSpec is the container for the operating system.
func (c *container) boxSpec(image Image) (*box.Spec, error) {
	p := c.pod
	env, err := c.environment()
	if err != nil {
		return nil, err
	}
	mapping := expansion.MappingFuncFor(env)
	u := c.user()
	if wanted := c.wantedUser(); wanted != u {
		p.agent.sayOneUID.Do(func() {
			p.agent.Say("this cluster has one user: containers that are to run as user %d, or another, run as its root; as root it has them all", wanted.uid)
		})
	}
	spec := &box.Spec{
		Hostname: p.hostname(),
		Root:     p.agent.emptyRoot,
		Program:  image.Program,
		Files:    p.etcFiles(),
		UID:      u.uid,
		GID:      u.gid,
		Dir:      "/",
	}
	if c.spec.WorkingDir != "" {
		spec.Dir = c.spec.WorkingDir
	}
	p.mu.Lock()
	if p.network != nil {
		spec.Netns = p.network.Netns
	}
	p.mu.Unlock()
	if spec.Mounts, err = c.mounts(mapping); err != nil {
		return nil, err
	}
	c.secure(spec)
	command := append([]string{"/" + filepath.Base(image.Program)}, image.Args...)
	if len(c.spec.Command) > 0 {
		command = c.spec.Command
	}
	for _, word := range slices.Concat(command, c.spec.Args) {
		spec.Argv = append(spec.Argv, expansion.Expand(word, mapping))
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		spec.Env = append(spec.Env, name+"="+env[name])
	}
	return spec, nil
}

// secure applies the security contexts, the users apart.
func (c *container) secure(spec *box.Spec) {
	var added []string
	capabilities := map[string]bool{}
	if spec.UID == 0 {
		for _, name := range defaultCapabilities {
			capabilities[name] = true
		}
	}
	if s := c.spec.SecurityContext; s != nil {
		spec.ReadOnlyRoot = s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem
		spec.NoNewPrivs = s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation
		if s.Privileged != nil && *s.Privileged {
			added = append(added, "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "SYS_RESOURCE")
		}
		if s.Capabilities != nil {
			for _, name := range s.Capabilities.Drop {
				if name == "ALL" {
					clear(capabilities)
				}
				delete(capabilities, string(name))
			}
			for _, name := range s.Capabilities.Add {
				added = append(added, string(name))
			}
		}
	}
	for _, name := range added {
		capabilities[strings.TrimPrefix(name, "CAP_")] = true
	}
	spec.Capabilities = slices.Sorted(maps.Keys(capabilities))
	if s := c.pod.spec().SecurityContext; s != nil {
		if !c.pod.agent.OneUser {
			for _, group := range s.SupplementalGroups {
				spec.Groups = append(spec.Groups, int(group))
			}
			if s.FSGroup != nil {
				spec.Groups = append(spec.Groups, int(*s.FSGroup))
			}
		}
		if spec.Netns != "" && len(s.Sysctls) > 0 {
			spec.Sysctls = map[string]string{}
			for _, sysctl := range s.Sysctls {
				spec.Sysctls[sysctl.Name] = sysctl.Value
			}
		}
	}
}

// environment is the container's, by name.
func (c *container) environment() (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	p := c.pod
	env := map[string]string{
		"PATH": defaultEnv, "HOME": "/", "HOSTNAME": p.hostname(),
		"KUBERNETES_SERVICE_HOST": p.agent.APIHost, "KUBERNETES_SERVICE_PORT": p.agent.APIPort, "KUBERNETES_SERVICE_PORT_HTTPS": p.agent.APIPort,
		"KUBERNETES_PORT": "tcp://" + p.agent.APIHost + ":" + p.agent.APIPort,
	}
	for _, from := range c.spec.EnvFrom {
		values, err := p.envFrom(ctx, from)
		if err != nil {
			return nil, err
		}
		for name, value := range values {
			env[from.Prefix+name] = value
		}
	}
	for _, variable := range c.spec.Env {
		if variable.ValueFrom == nil {
			// What was defined before may be referred to.
			env[variable.Name] = expansion.Expand(variable.Value, expansion.MappingFuncFor(env))
			continue
		}
		value, found, err := c.valueFrom(ctx, variable.ValueFrom)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", variable.Name, err)
		}
		if found {
			env[variable.Name] = value
		}
	}
	return env, nil
}

func (c *container) valueFrom(ctx context.Context, from *v1.EnvVarSource) (value string, found bool, err error) {
	p := c.pod
	switch {
	case from.FieldRef != nil:
		value, err := p.field(from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err := resource.ExtractContainerResourceValue(from.ResourceFieldRef, c.spec)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		data, err := p.configMap(ctx, ref.Name, ref.Optional)
		if err != nil {
			return "", false, err
		}
		return pick(data, "ConfigMap", ref.Name, ref.Key, ref.Optional)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		data, err := p.secret(ctx, ref.Name, ref.Optional)
		if err != nil {
			return "", false, err
		}
		return pick(data, "Secret", ref.Name, ref.Key, ref.Optional)
	}
	return "", false, fmt.Errorf("this kind of valueFrom isn't supported here")
}

func pick(data map[string][]byte, kind, name, key string, optional *bool) (string, bool, error) {
	value, found := data[key]
	if !found && (optional == nil || !*optional) {
		return "", false, fmt.Errorf("couldn't find key %s in %s %s", key, kind, name)
	}
	return string(value), found, nil
}

func (p *pod) envFrom(ctx context.Context, from v1.EnvFromSource) (map[string]string, error) {
	var data map[string][]byte
	var err error
	switch {
	case from.ConfigMapRef != nil:
		data, err = p.configMap(ctx, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
	case from.SecretRef != nil:
		data, err = p.secret(ctx, from.SecretRef.Name, from.SecretRef.Optional)
	}
	values := map[string]string{}
	for name, value := range data {
		values[name] = string(value)
	}
	return values, err
}

// field is a field of the Pod for the downward API.
func (p *pod) field(path string) (string, error) {
	object := p.latest()
	switch path {
	case "status.podIP", "status.podIPs":
		return p.address(), nil
	case "status.hostIP", "status.hostIPs":
		return p.agent.IP, nil
	case "spec.nodeName":
		return p.agent.Node, nil
	case "spec.serviceAccountName":
		return object.Spec.ServiceAccountName, nil
	}
	return fieldpath.ExtractFieldPathAsString(object, path)
}

func (p *pod) hostname() string {
	object := p.latest()
	if object.Spec.HostNetwork {
		return p.agent.Node
	}
	if object.Spec.Hostname != "" {
		return object.Spec.Hostname
	}
	return object.Name
}

// etcFiles are the files of /etc that are the Pod's own.
func (p *pod) etcFiles() map[string]string {
	spec := p.spec()
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	fmt.Fprintf(&hosts, "%s\t", p.address())
	if spec.Subdomain != "" {
		fmt.Fprintf(&hosts, "%s.%s.%s.svc.%s\t", p.hostname(), spec.Subdomain, p.namespace, network.ClusterDomain)
	}
	fmt.Fprintf(&hosts, "%s\n", p.hostname())
	for _, alias := range spec.HostAliases {
		fmt.Fprintf(&hosts, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
	return map[string]string{
		"/etc/hosts":       hosts.String(),
		"/etc/hostname":    p.hostname() + "\n",
		"/etc/resolv.conf": p.resolvConf(),
	}
}

// resolvConf follows the Pod's dnsPolicy.
func (p *pod) resolvConf() string {
	spec := p.spec()
	servers, searches := []string{network.DNSIP}, []string{
		p.namespace + ".svc." + network.ClusterDomain, "svc." + network.ClusterDomain, network.ClusterDomain,
	}
	options := []string{"ndots:5"}
	cluster := spec.DNSPolicy == v1.DNSClusterFirst && !spec.HostNetwork || spec.DNSPolicy == v1.DNSClusterFirstWithHostNet
	if !cluster {
		// The node's: it has no other server, but searches nothing.
		searches, options = nil, nil
	}
	if spec.DNSPolicy == v1.DNSNone {
		servers = nil
	}
	if config := spec.DNSConfig; config != nil {
		servers = append(servers, config.Nameservers...)
		searches = append(searches, config.Searches...)
		for _, option := range config.Options {
			if option.Value != nil {
				options = append(options, option.Name+":"+*option.Value)
			} else {
				options = append(options, option.Name)
			}
		}
	}
	var text strings.Builder
	for _, server := range servers {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	if len(searches) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(searches, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(options, " "))
	}
	return text.String()
}

func (p *pod) configMap(ctx context.Context, name string, optional *bool) (map[string][]byte, error) {
	object, err := p.agent.Client.CoreV1().ConfigMaps(p.namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, missing(err, optional)
	}
	data := maps.Clone(object.BinaryData)
	if data == nil {
		data = map[string][]byte{}
	}
	for key, value := range object.Data {
		data[key] = []byte(value)
	}
	return data, nil
}

func (p *pod) secret(ctx context.Context, name string, optional *bool) (map[string][]byte, error) {
	object, err := p.agent.Client.CoreV1().Secrets(p.namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, missing(err, optional)
	}
	return object.Data, nil
}
