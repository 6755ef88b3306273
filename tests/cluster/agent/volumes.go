package agent

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	authentication "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
	"portunus.dev/cluster/box"
)

// payload is a volume's files by path.
type payload = map[string]volumeutil.FileProjection

// boundToken is a service account's token and when to get the next.
type boundToken struct {
	token string
	renew time.Time
}

// volumePath is where a volume of the Pod lies on the node.
func (p *pod) volumePath(name string) string { return filepath.Join(p.dir, name) }

// makeVolumes makes the Pod's volumes, or brings those that exist up to date.
func (p *pod) makeVolumes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	for i := range p.spec().Volumes {
		volume := &p.spec().Volumes[i]
		if err := p.makeVolume(ctx, volume); err != nil {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
	}
	return nil
}

func (p *pod) makeVolume(ctx context.Context, volume *v1.Volume) error {
	dir := p.volumePath(volume.Name)
	files := payload{}
	var err error
	switch {
	case volume.EmptyDir != nil:
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		// MkdirAll leaves out what the umask does.
		return os.Chmod(dir, 0o777)
	case volume.HostPath != nil:
		return nil
	case volume.ConfigMap != nil:
		source := volume.ConfigMap
		err = p.projectConfigMap(ctx, files, source.Name, source.Items, source.DefaultMode, source.Optional)
	case volume.Secret != nil:
		source := volume.Secret
		err = p.projectSecret(ctx, files, source.SecretName, source.Items, source.DefaultMode, source.Optional)
	case volume.DownwardAPI != nil:
		err = p.projectDownward(files, volume.DownwardAPI.Items, volume.DownwardAPI.DefaultMode)
	case volume.Projected != nil:
		err = p.project(ctx, files, volume.Name, volume.Projected)
	default:
		err = fmt.Errorf("this kind isn't supported here; configMap, secret, projected, downwardAPI, emptyDir and hostPath are")
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	writer, err := volumeutil.NewAtomicWriter(dir, p.namespace+"/"+p.name)
	if err != nil {
		return err
	}
	return writer.Write(files, func(subPath string) error { return p.giveToGroup(filepath.Join(dir, subPath)) })
}

// giveToGroup lets the Pod's fsGroup read what was just written.
func (p *pod) giveToGroup(root string) error {
	s := p.spec().SecurityContext
	if s == nil || s.FSGroup == nil || p.agent.OneUser {
		return nil
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o040
		if entry.IsDir() {
			mode |= 0o050
		}
		if err := os.Chown(path, -1, int(*s.FSGroup)); err != nil {
			return err
		}
		return os.Chmod(path, mode)
	})
}

func (p *pod) project(ctx context.Context, files payload, name string, projected *v1.ProjectedVolumeSource) error {
	for _, source := range projected.Sources {
		var err error
		switch {
		case source.ServiceAccountToken != nil:
			var token string
			if token, err = p.token(ctx, name, source.ServiceAccountToken); err == nil {
				add(files, source.ServiceAccountToken.Path, []byte(token), nil, projected.DefaultMode)
			}
		case source.ConfigMap != nil:
			err = p.projectConfigMap(ctx, files, source.ConfigMap.Name, source.ConfigMap.Items, projected.DefaultMode, source.ConfigMap.Optional)
		case source.Secret != nil:
			err = p.projectSecret(ctx, files, source.Secret.Name, source.Secret.Items, projected.DefaultMode, source.Secret.Optional)
		case source.DownwardAPI != nil:
			err = p.projectDownward(files, source.DownwardAPI.Items, projected.DefaultMode)
		default:
			err = fmt.Errorf("this kind of projection isn't supported here")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// token is a token of the Pod's service account, bound to the Pod; a new one when four fifths of its life are over.
func (p *pod) token(ctx context.Context, volume string, source *v1.ServiceAccountTokenProjection) (string, error) {
	key := volume + "/" + source.Path
	p.mu.Lock()
	bound := p.tokens[key]
	p.mu.Unlock()
	if time.Now().Before(bound.renew) {
		return bound.token, nil
	}
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authentication.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.name, UID: p.uid},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	answer, err := p.agent.Client.CoreV1().ServiceAccounts(p.namespace).CreateToken(ctx, p.spec().ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	life := time.Until(answer.Status.ExpirationTimestamp.Time)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens[key] = boundToken{token: answer.Status.Token, renew: time.Now().Add(life * 4 / 5)}
	return answer.Status.Token, nil
}

func (p *pod) projectConfigMap(ctx context.Context, files payload, name string, items []v1.KeyToPath, mode *int32, optional *bool) error {
	data, err := p.configMap(ctx, name, optional)
	if err != nil {
		return err
	}
	return projectKeys(files, data, "ConfigMap "+name, items, mode, optional)
}

func (p *pod) projectSecret(ctx context.Context, files payload, name string, items []v1.KeyToPath, mode *int32, optional *bool) error {
	data, err := p.secret(ctx, name, optional)
	if err != nil {
		return err
	}
	return projectKeys(files, data, "Secret "+name, items, mode, optional)
}

// projectKeys adds all keys, or those that items name.
func projectKeys(files payload, data map[string][]byte, owner string, items []v1.KeyToPath, mode *int32, optional *bool) error {
	if len(items) == 0 {
		for key, value := range data {
			add(files, key, value, nil, mode)
		}
		return nil
	}
	for _, item := range items {
		value, found := data[item.Key]
		if found {
			add(files, item.Path, value, item.Mode, mode)
		} else if optional == nil || !*optional {
			return fmt.Errorf("%s has no key %s", owner, item.Key)
		}
	}
	return nil
}

func (p *pod) projectDownward(files payload, items []v1.DownwardAPIVolumeFile, mode *int32) error {
	for _, item := range items {
		var value string
		var err error
		if item.FieldRef != nil {
			value, err = p.field(item.FieldRef.FieldPath)
		} else if item.ResourceFieldRef != nil {
			value, err = resource.ExtractResourceValueByContainerName(item.ResourceFieldRef, p.latest(), item.ResourceFieldRef.ContainerName)
		}
		if err != nil {
			return err
		}
		add(files, item.Path, []byte(value), item.Mode, mode)
	}
	return nil
}

func add(files payload, path string, data []byte, mode, fallback *int32) {
	file := volumeutil.FileProjection{Data: data, Mode: 0o644}
	if fallback != nil {
		file.Mode = *fallback
	}
	if mode != nil {
		file.Mode = *mode
	}
	files[path] = file
}

// missing makes nothing of the error that something optional isn't there.
func missing(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	return err
}

// mounts are the container's volumes as mounts.
func (c *container) mounts(env func(string) string) ([]box.Mount, error) {
	sources := map[string]*v1.Volume{}
	for i, volume := range c.pod.spec().Volumes {
		sources[volume.Name] = &c.pod.spec().Volumes[i]
	}
	var mounts []box.Mount
	for _, mount := range c.spec.VolumeMounts {
		volume := sources[mount.Name]
		if volume == nil {
			return nil, fmt.Errorf("volumeMount %s: no such volume", mount.Name)
		}
		from := c.pod.volumePath(mount.Name)
		if volume.HostPath != nil {
			from = volume.HostPath.Path
		}
		subPath := mount.SubPath
		if mount.SubPathExpr != "" {
			subPath = expansion.Expand(mount.SubPathExpr, env)
		}
		if subPath != "" {
			from = filepath.Join(from, path.Clean("/"+subPath))
			if _, err := os.Stat(from); err != nil && volume.EmptyDir != nil {
				if err := os.MkdirAll(from, 0o777); err != nil {
					return nil, err
				}
			}
		}
		readOnly := mount.ReadOnly || volume.EmptyDir == nil && volume.HostPath == nil
		mounts = append(mounts, box.Mount{From: from, To: "/" + strings.TrimPrefix(mount.MountPath, "/"), ReadOnly: readOnly})
	}
	return mounts, nil
}
