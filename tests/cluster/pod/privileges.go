package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
	"portunus.dev/cluster/box"
)

// capabilityNumbers are those that a container may have.
var capabilityNumbers = map[string]int{
	"AUDIT_WRITE": unix.CAP_AUDIT_WRITE, "CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE,
	"DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH, "FOWNER": unix.CAP_FOWNER, "FSETID": unix.CAP_FSETID,
	"IPC_LOCK": unix.CAP_IPC_LOCK, "KILL": unix.CAP_KILL, "MKNOD": unix.CAP_MKNOD, "NET_ADMIN": unix.CAP_NET_ADMIN,
	"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "NET_RAW": unix.CAP_NET_RAW, "SETFCAP": unix.CAP_SETFCAP,
	"SETGID": unix.CAP_SETGID, "SETPCAP": unix.CAP_SETPCAP, "SETUID": unix.CAP_SETUID, "SYS_ADMIN": unix.CAP_SYS_ADMIN,
	"SYS_CHROOT": unix.CAP_SYS_CHROOT, "SYS_PTRACE": unix.CAP_SYS_PTRACE, "SYS_RESOURCE": unix.CAP_SYS_RESOURCE,
}

// dropPrivileges leaves the container's user with the container's capabilities and no others. They are
// ambient, so a user who isn't root has them without a file that grants them.
func dropPrivileges(spec *box.Spec) error {
	var set [2]unix.CapUserData
	wanted := map[int]bool{}
	for _, name := range spec.Capabilities {
		number, known := capabilityNumbers[name]
		if !known {
			return fmt.Errorf("capability %s isn't known here; add it to capabilityNumbers", name)
		}
		wanted[number] = true
		bit := uint32(1) << (number % 32)
		set[number/32].Effective |= bit
		set[number/32].Permitted |= bit
		set[number/32].Inheritable |= bit
	}
	for number := 0; number <= unix.CAP_LAST_CAP; number++ {
		if wanted[number] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", number, err)
		}
	}
	if spec.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if err := setUser(spec); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &set[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	for number := range wanted {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(number), 0, 0); err != nil {
			return fmt.Errorf("raise capability %d: %w", number, err)
		}
	}
	return nil
}

// setUser changes this thread's ids, by the bare system calls: exec follows on this same thread.
func setUser(spec *box.Spec) error {
	if spec.UID == 0 && spec.GID == 0 && len(spec.Groups) == 0 {
		return nil
	}
	groups := make([]uint32, len(spec.Groups)+1)
	for i, group := range spec.Groups {
		groups[i] = uint32(group)
	}
	list := uintptr(unsafe.Pointer(&groups[0]))
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(spec.Groups)), list, 0); errno != 0 {
		return fmt.Errorf("set the groups: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(spec.GID), uintptr(spec.GID), uintptr(spec.GID)); errno != 0 {
		return fmt.Errorf("become group %d: %w", spec.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(spec.UID), uintptr(spec.UID), uintptr(spec.UID)); errno != 0 {
		return fmt.Errorf("become user %d: %w", spec.UID, errno)
	}
	return nil
}
