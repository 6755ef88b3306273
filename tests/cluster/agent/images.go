package agent

import (
	"fmt"
	"strings"
)

// Image is what a container's image is here: a program, and arguments that its entrypoint has.
type Image struct {
	Program string
	Args    []string
}

// Images are the images there are, by name.
type Images map[string]Image

// find looks an image up by its whole name, then without tag and digest, then by the last part alone.
func (images Images) find(name string) (Image, error) {
	bare, _, _ := strings.Cut(name, "@")
	if colon := strings.LastIndex(bare, ":"); colon > strings.LastIndex(bare, "/") {
		bare = bare[:colon]
	}
	for _, candidate := range []string{name, bare, bare[strings.LastIndex(bare, "/")+1:]} {
		if image, found := images[candidate]; found {
			return image, nil
		}
	}
	return Image{}, fmt.Errorf("failed to pull image %q: not found; this cluster has no registry: give it with --image NAME=PROGRAM", name)
}
