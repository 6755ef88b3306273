package agent

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFindImage(t *testing.T) {
	images := Images{"echo": {Program: "/echo"}, "registry.test/team/web": {Program: "/web"}, "pinned:v2": {Program: "/v2"}}
	for name, want := range map[string]string{
		"echo": "/echo", "echo:v1": "/echo", "registry.test:5000/team/echo:v1@sha256:0": "/echo",
		"registry.test/team/web:v3": "/web", "pinned:v2": "/v2", "pinned:v3": "", "web": "",
	} {
		if image, _ := images.find(name); image.Program != want {
			t.Errorf("find(%q) is %q, want %q", name, image.Program, want)
		}
	}
}

func TestTailFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for lines, want := range map[int]int64{0: 14, 1: 8, 2: 4, 3: 0, 9: 0} {
		if got, err := tailFrom(log, 0, -1, lines); err != nil || got != want {
			t.Errorf("the last %d lines begin at %d (%v), want %d", lines, got, err, want)
		}
	}
}
