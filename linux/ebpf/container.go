package ebpf

import (
	"strconv"
	"strings"
)

// containerID names the container that a control group belongs to, or "" where
// it belongs to none that is known by its name. cgroup is the group's path from
// the root of its hierarchy, of version 1 or 2, as /proc/[pid]/cgroup has it in
// the initial cgroup namespace. A group inside a container's belongs to that
// container, and where one container runs in another, the innermost is named.
//
// The name is the manager's own: the full ID of docker, containerd, CRI-O,
// podman, nerdctl and ECS, the random one of BuildKit's steps, and the name
// that LXC and systemd-nspawn go by. What only looks after a container (conmon,
// lxc.monitor, nspawn's supervisor) is none, nor is a pod's group or a virtual
// machine's. A container whose ID was chosen by hand and whose group says
// nothing more, as that of "ctr run" at /default/web, is not told from any other
// group.
//
// It is a name and no proof: whoever may make control groups may call one so.
// That includes unprivileged users below their own user@1000.service, because
// rootless docker and podman look exactly so. And a process that may move
// itself out of a container's group is no longer in it.
func containerID(cgroup string) string {
	var id, around, parent string
	supervised := false
	for group := range strings.SplitSeq(cgroup, "/") {
		if group == "" {
			continue
		}
		// nspawn splits its unit in payload and supervisor, which is itself.
		if supervised && group == "supervisor" {
			id = around
		}
		supervised = false
		if found := containerIn(parent, group, cgroup); found != "" {
			id, around = found, id
		} else if name := machine(parent, group); name != "" {
			id, around, supervised = name, id, true
		} else {
			parent = group
			continue
		}
		// What a container's group is called says nothing of those in it: lxc
		// may be the name of one.
		parent = ""
	}
	return id
}

// containerIn names the container that has group for its own, below a group
// called parent, or "".
func containerIn(parent, group, cgroup string) string {
	switch parent {
	case "lxc", "lxc.payload": // LXC on version 1, and 4.0's first releases
		return group
	case "lxc.monitor", "libpod_parent": // the latter's are podman's pods, but for libpod-<id>
		if isHex(group, 64) {
			return ""
		}
	case "buildkit": // /buildkit/<id>, /docker/buildkit/<id>
		if isBuild(group) {
			return group
		}
	}
	if name, ok := strings.CutPrefix(group, "lxc.payload."); ok { // LXC from 4.0 on, Incus and LXD
		return name
	}
	// With runc's cgroupfs driver, /docker/<id>, /kubepods/burstable/pod<uid>/<id>,
	// /ecs/<task>/<id>, /<namespace of containerd>/<id>. Nothing else names a
	// group so.
	if isHex(group, 64) {
		return group
	}
	// A path meant for the systemd driver but taken by the other:
	// kubepods-pod<uid>.slice:cri-containerd:<id>.
	if parts := strings.Split(group, ":"); len(parts) == 3 && isHex(parts[2], 64) {
		return parts[2]
	}
	// With the systemd driver, docker-<id>.scope, cri-containerd-<id>.scope,
	// nerdctl-<id>.scope; without it, crio-<id>, libpod-<id>,
	// libpod-payload-<id>. Not a service: podman's health checks, which run
	// outside, are called <id>-<random>.service.
	name, scope := strings.CutSuffix(group, ".scope")
	if dash := strings.LastIndexByte(name, '-'); dash > 0 {
		prefix, id := name[:dash], name[dash+1:]
		switch {
		case isHex(id, 64) && prefix != "conmon" && !strings.HasSuffix(prefix, "-conmon"):
			return id
		case scope && isBuild(id) && (prefix == "docker" || prefix == "buildkit"):
			return id
		case strings.HasPrefix(cgroup, "/ecs/") && isHex(prefix, 32) && isNumber(id): // Fargate
			return name
		}
	}
	return ""
}

// machine names the container that systemd-machined or systemd-nspawn keeps in
// a unit of its own, or "". libvirt's containers are among them, as
// lxc-<number>-<name>.
func machine(parent, unit string) string {
	if instance, ok := strings.CutPrefix(unit, "systemd-nspawn@"); ok {
		if instance, ok = strings.CutSuffix(instance, ".service"); ok {
			return unescapeUnit(instance)
		}
		return ""
	}
	slice, ok := strings.CutSuffix(parent, ".slice")
	if !ok || slice != "machine" && !strings.HasPrefix(slice, "machine-") {
		return ""
	}
	escaped, ok := strings.CutPrefix(unit, "machine-")
	if !ok {
		return ""
	}
	if escaped, ok = strings.CutSuffix(escaped, ".scope"); !ok {
		return ""
	}
	name := unescapeUnit(escaped)
	// libvirt's virtual machines: qemu-<number>-<name>.
	if driver, rest, _ := strings.Cut(name, "-"); driver == "qemu" || driver == "ch" {
		if number, _, ok := strings.Cut(rest, "-"); ok && isNumber(number) {
			return ""
		}
	}
	return name
}

// unescapeUnit undoes the \xNN of systemd.unit(5). The dash that stands for a
// slash stays: no machine's name has a slash, and many have a dash.
func unescapeUnit(text string) string {
	var plain strings.Builder
	for {
		before, after, ok := strings.Cut(text, `\x`)
		plain.WriteString(before)
		if !ok {
			return plain.String()
		}
		if len(after) >= 2 {
			if b, err := strconv.ParseUint(after[:2], 16, 8); err == nil {
				plain.WriteByte(byte(b))
				text = after[2:]
				continue
			}
		}
		plain.WriteString(`\x`)
		text = after
	}
}

// isBuild reports whether id has the form of BuildKit's random ones.
func isBuild(id string) bool {
	return len(id) == 25 && only(id, "0123456789abcdefghijklmnopqrstuvwxyz")
}

func isHex(text string, digits int) bool {
	return len(text) == digits && only(text, "0123456789abcdef")
}

func isNumber(text string) bool { return text != "" && only(text, "0123456789") }

func only(text, alphabet string) bool { return strings.Trim(text, alphabet) == "" }
