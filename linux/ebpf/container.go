package ebpf

import (
	"regexp"
	"strconv"
	"strings"
)

// containerID returns the name of the container that a control group belongs to,
// or "" if the path names none. cgroup is the group's path from the root of its
// hierarchy, of version 1 or 2, as /proc/[pid]/cgroup shows it in the initial cgroup
// namespace. A group below a container's group belongs to that container. If one
// container runs in another, containerID returns the innermost.
//
// The name is the one that the container's manager uses: the full ID for docker,
// containerd, CRI-O, podman, nerdctl and ECS, the random ID for BuildKit's steps, and
// the name for LXC and systemd-nspawn. Processes that manage a container (conmon,
// lxc.monitor, nspawn's supervisor) are not in it. The groups of pods and virtual
// machines are not containers. A container with an ID chosen by hand in a group
// without any other mark, such as /default/web of "ctr run", cannot be recognized.
//
// The name is not proof: a user who may create control groups can choose it. That
// includes unprivileged users below their own user@1000.service, because rootless
// docker and podman use the same paths. A process that may move itself out of a
// container's group no longer belongs to it.
func containerID(cgroup string) string {
	var id, around, parent string
	supervised := false
	for group := range strings.SplitSeq(cgroup, "/") {
		if group == "" {
			continue
		}
		// systemd-nspawn itself runs in the group supervisor of its unit.
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
		// The name of a container's group must not be taken for that of a
		// manager: a container may be called lxc.
		parent = ""
	}
	return id
}

// containerIn returns the name of the container whose own group this is, or "".
// parent is the name of the group above.
func containerIn(parent, group, cgroup string) string {
	switch parent {
	case "lxc", "lxc.payload": // LXC on version 1, and 4.0's first releases
		return group
	case "lxc.monitor", "libpod_parent": // below libpod_parent only libpod-<id> is a container; the others are pods
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
	// With runc's cgroupfs driver: /docker/<id>, /kubepods/burstable/pod<uid>/<id>,
	// /ecs/<task>/<id>, /<namespace of containerd>/<id>. No other program names
	// groups like this.
	if isHex(group, 64) {
		return group
	}
	// A path in the systemd driver's form that the cgroupfs driver used:
	// kubepods-pod<uid>.slice:cri-containerd:<id>.
	if parts := strings.Split(group, ":"); len(parts) == 3 && isHex(parts[2], 64) {
		return parts[2]
	}
	// With the systemd driver: docker-<id>.scope, cri-containerd-<id>.scope,
	// nerdctl-<id>.scope. Without it: crio-<id>, libpod-<id>, libpod-payload-<id>.
	// A service is not a container: podman's health checks run outside of it in
	// <id>-<random>.service.
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

// machine returns the name of the container for which systemd-machined or
// systemd-nspawn has a unit, or "". libvirt's containers are among them, named
// lxc-<number>-<name>.
func machine(parent, unit string) string {
	if instance, ok := between(unit, "systemd-nspawn@", ".service"); ok {
		return unescapeUnit(instance)
	}
	slice, isBelow := between(parent, "machine", ".slice")
	escaped, ok := between(unit, "machine-", ".scope")
	if !ok || !isBelow || slice != "" && slice[0] != '-' {
		return ""
	}
	name := unescapeUnit(escaped)
	if virtualMachine.MatchString(name) {
		return ""
	}
	return name
}

// virtualMachine matches the names of libvirt's virtual machines.
var virtualMachine = regexp.MustCompile(`^(qemu|ch)-[0-9]+-`)

// between returns the part of a text between a prefix and a suffix that it has.
func between(text, prefix, suffix string) (string, bool) {
	text, hasPrefix := strings.CutPrefix(text, prefix)
	text, hasSuffix := strings.CutSuffix(text, suffix)
	return text, hasPrefix && hasSuffix
}

var unitEscape = regexp.MustCompile(`\\x[0-9a-fA-F]{2}`)

// unescapeUnit decodes the \xNN escapes of systemd.unit(5). It keeps dashes, which
// may stand for slashes: no machine's name has a slash, and many have a dash.
func unescapeUnit(text string) string {
	return unitEscape.ReplaceAllStringFunc(text, func(escape string) string {
		b, _ := strconv.ParseUint(escape[2:], 16, 8) // two hexadecimal digits are a byte
		return string([]byte{byte(b)})
	})
}

// isBuild reports whether id has the form of BuildKit's random IDs.
var isBuild = regexp.MustCompile(`^[0-9a-z]{25}$`).MatchString

func isHex(text string, digits int) bool {
	return len(text) == digits && only(text, "0123456789abcdef")
}

func isNumber(text string) bool { return text != "" && only(text, "0123456789") }

func only(text, alphabet string) bool { return strings.Trim(text, alphabet) == "" }
