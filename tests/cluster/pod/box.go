package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
	"portunus.dev/cluster/box"
)

// runBox turns this process, which is pid 1 of a pid namespace and alone in a mount namespace, into a container.
func runBox([]string) error {
	// The network namespace and the capabilities are the thread's, and exec keeps those of the thread that calls it.
	runtime.LockOSThread()
	unix.CloseOnExec(box.ErrorFD)
	err := become()
	fmt.Fprint(os.NewFile(box.ErrorFD, "error"), err)
	os.Exit(128)
	return nil
}

func become() error {
	var spec box.Spec
	file := os.NewFile(box.SpecFD, "spec")
	if err := json.NewDecoder(file).Decode(&spec); err != nil {
		return fmt.Errorf("read the container's spec: %w", err)
	}
	file.Close()
	if err := joinNetwork(spec.Netns); err != nil {
		return err
	}
	if err := setSysctls(spec.Sysctls); err != nil {
		return err
	}
	if err := assembleRoot(&spec); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := os.Chdir(spec.Dir); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	program, err := lookPath(spec.Argv[0], spec.Env)
	if err != nil {
		return err
	}
	if err := dropPrivileges(&spec); err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", program, unix.Exec(program, spec.Argv, spec.Env))
}

func joinNetwork(path string) error {
	if path == "" {
		return nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the Pod's network namespace: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the Pod's network namespace: %w", err)
	}
	return nil
}

func setSysctls(sysctls map[string]string) error {
	for name, value := range sysctls {
		path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return fmt.Errorf("sysctl %s: %w", name, err)
		}
	}
	return nil
}

// systemDirs are the node's directories that programs need; links among them (merged /usr) stay links.
var systemDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"}

// systemFiles of /etc are shown as the node has them, where it has them.
var systemFiles = []string{
	"/etc/alternatives", "/etc/group", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf",
	"/etc/passwd", "/etc/protocols", "/etc/services", "/etc/ssl",
}

func assembleRoot(spec *box.Spec) error {
	root := spec.Root
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	for _, dir := range systemDirs {
		if target, err := os.Readlink(dir); err == nil {
			if err := os.Symlink(target, filepath.Join(root, dir)); err != nil {
				return err
			}
		} else if err := bindExisting(root, dir); err != nil {
			return err
		}
	}
	for _, file := range systemFiles {
		if err := bindExisting(root, file); err != nil {
			return err
		}
	}
	if spec.Program != "" {
		if err := bind(root, box.Mount{From: spec.Program, To: "/" + filepath.Base(spec.Program), ReadOnly: true}); err != nil {
			return err
		}
	}
	if err := kernelFilesystems(root); err != nil {
		return err
	}
	for path, content := range spec.Files {
		if err := writeFile(filepath.Join(root, path), content); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(root, "tmp"), 0o777); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	// Outer mounts first, whatever their order in the Pod.
	sort.SliceStable(spec.Mounts, func(i, j int) bool { return len(spec.Mounts[i].To) < len(spec.Mounts[j].To) })
	for _, m := range spec.Mounts {
		if err := bind(root, m); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(root, spec.Dir), 0o755); err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if spec.ReadOnlyRoot {
		if err := remountReadOnly("/"); err != nil {
			return err
		}
	}
	return nil
}

// kernelFilesystems makes /proc and a /dev of harmless devices.
func kernelFilesystems(root string) error {
	for _, dir := range []string{"proc", "dev", "dev/shm"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(root, "dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	for _, device := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := bind(root, box.Mount{From: "/dev/" + device, To: "/dev/" + device}); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+target, filepath.Join(root, "dev", name)); err != nil {
			return err
		}
	}
	return nil
}

func bindExisting(root, path string) error {
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	return bind(root, box.Mount{From: path, To: path, ReadOnly: true})
}

func bind(root string, m box.Mount) error {
	to := filepath.Join(root, m.To)
	info, err := os.Stat(m.From)
	if err != nil {
		return fmt.Errorf("mount at %s: %w", m.To, err)
	}
	if info.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else if _, statErr := os.Stat(to); statErr != nil {
		err = writeFile(to, "")
	}
	if err != nil {
		return fmt.Errorf("mount at %s: %w", m.To, err)
	}
	if err := unix.Mount(m.From, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.From, m.To, err)
	}
	if m.ReadOnly {
		return remountReadOnly(to)
	}
	return nil
}

// remountReadOnly keeps the flags that a mount of another user namespace has locked.
func remountReadOnly(path string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	kept := uintptr(stat.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	if err := unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|kept, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// lookPath finds the program as a shell would, by the PATH that the container has.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, entry := range env {
		list, is := strings.CutPrefix(entry, "PATH=")
		if !is {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH", name)
}
