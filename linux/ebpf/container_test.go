package ebpf

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	outerID = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
	innerID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
	podUID  = "ac04f3f2-1f2c-11e9-b015-1ebee232acfa"
	taskID  = "34dc0b5e626f2c5c4c5170e34b10e765"
	buildID = "n4eu0udvbz9vfzjy71jkvgkwh"
)

// containers are control groups as their managers create them, and the names of the
// containers.
var containers = map[string]string{
	// docker
	"/docker/" + outerID:                                       outerID,
	"/docker/" + outerID + "/":                                 outerID,
	"/system.slice/docker-" + outerID + ".scope":               outerID,
	"/build.slice/docker-" + outerID + ".scope":                outerID, // --cgroup-parent
	"/actions_job/" + outerID:                                  outerID, // likewise, without systemd
	"/" + outerID:                                              outerID,
	"/lxc/" + outerID:                                          outerID, // its LXC driver of old
	"/docker/" + outerID + "/init.scope":                       outerID,
	"/docker/" + outerID + "/system.slice/sshd.service":        outerID,
	"/docker/" + outerID + "/docker/" + innerID:                innerID,
	"/docker/" + outerID + "/docker/" + innerID + "/x":         innerID,
	"/docker/" + outerID + "/kubepods/besteffort/pod" + podUID: outerID,
	"/system.slice/docker-" + outerID + ".scope/kubelet/kubepods/pod" + podUID + "/" + innerID:   innerID, // kind
	"/user.slice/user-1000.slice/user@1000.service/app.slice/docker-" + outerID + ".scope":       outerID, // rootless
	"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + outerID + ".scope/init": outerID,
	"/system.slice/balena-" + outerID + ".scope":                                                 outerID,

	// containerd, by the kubelet and by nerdctl
	"/kubepods/besteffort/pod" + podUID + "/" + outerID: outerID,
	"/kubepods/pod" + podUID + "/" + outerID:            outerID,
	"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podac04f3f2_1f2c_11e9_b015_1ebee232acfa.slice/cri-containerd-" + outerID + ".scope": outerID,
	"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podac04f3f2.slice/cri-containerd-" + outerID + ".scope/init.scope":                       outerID,
	"/system.slice/containerd.service/kubepods-burstable-podac04f3f2.slice:cri-containerd:" + outerID:                                                outerID,
	"/system.slice/containerd.service/kubepods-burstable-podac04f3f2.slice:cri-containerd:" + outerID + "/a":                                         outerID,
	"/k8s.io/" + outerID:                          outerID,
	"/default/" + outerID:                         outerID,
	"/system.slice/nerdctl-" + outerID + ".scope": outerID,
	"/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-" + outerID + ".scope": outerID,

	// CRI-O
	"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podac04f3f2.slice/crio-" + outerID + ".scope":           outerID,
	"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podac04f3f2.slice/crio-" + outerID + ".scope/container": outerID, // crun
	"/kubepods/besteffort/pod" + podUID + "/crio-" + outerID:                                                               outerID,

	// podman
	"/machine.slice/libpod-" + outerID + ".scope":                                                   outerID,
	"/machine.slice/libpod-" + outerID + ".scope/container":                                         outerID,
	"/machine.slice/libpod-" + outerID + ".scope/container/init.scope":                              outerID,
	"/machine.slice/machine-libpod_pod_" + innerID + ".slice/libpod-" + outerID + ".scope":          outerID,
	"/libpod_parent/libpod-" + outerID:                                                              outerID,
	"/libpod_parent/" + innerID + "/libpod-" + outerID:                                              outerID,
	"/system.slice/web.service/libpod-payload-" + outerID:                                           outerID, // --cgroups=split
	"/system.slice/web.service/libpod-payload-" + outerID + "/container":                            outerID,
	"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + outerID + ".scope/a":       outerID,
	"/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-" + outerID: outerID,

	// ECS, on EC2 and on Fargate
	"/ecs/55091c13-b8cf-4801-b527-f4601742204d/" + outerID:                       outerID,
	"/ecs/test-cluster/" + taskID + "/" + outerID:                                outerID,
	"/ecs/" + taskID + "/" + taskID + "-1234567890":                              taskID + "-1234567890",
	"/ecs/" + taskID + "-123456789":                                              taskID + "-123456789",
	"/ecstasks.slice/ecstasks-" + taskID + ".slice/docker-" + outerID + ".scope": outerID,

	// BuildKit, alone and in docker
	"/buildkit/" + buildID:                        buildID,
	"/docker/buildkit/" + buildID:                 buildID,
	"/system.slice/docker-" + buildID + ".scope":  buildID,
	"/docker/" + outerID + "/buildkit/" + buildID: buildID, // docker-container builder

	// LXC, LXD, Incus, Proxmox
	"/lxc/web":                                            "web",
	"/lxc/101":                                            "101",
	"/lxc/101/ns":                                         "101",
	"/lxc/101/ns/init.scope":                              "101",
	"/lxc/web/system.slice/cron.service":                  "web",
	"/lxc/lxc/init.scope":                                 "lxc",
	"/lxc/a/lxc/b":                                        "b",
	"/lxc.payload/web":                                    "web",
	"/lxc.payload/web/init.scope":                         "web",
	"/lxc.payload.web":                                    "web",
	"/lxc.payload.web-1":                                  "web-1", // beside a group of the same name
	"/lxc.payload.my.web/system.slice":                    "my.web",
	"/lxc.payload.project_web":                            "project_web",
	"/lxc.payload.a/lxc.payload.b/x":                      "b",
	"/lxc.payload.a/lxc.monitor.b":                        "a",
	"/lxc.payload.lxc/init.scope":                         "lxc",
	"/lxc.payload.web/docker/" + outerID:                  outerID,
	"/docker/" + outerID + "/lxc/web":                     "web",
	"/lxc.payload." + strings.Repeat("a", 64):             strings.Repeat("a", 64),
	"/user.slice/user-1000.slice/session-3.scope/lxc/web": "web",
	"/user.slice/user-1000.slice/user@1000.service/app.slice/lxc.payload.c1": "c1",

	// systemd-nspawn and what systemd-machined knows
	"/machine.slice/machine-web.scope":                                                      "web",
	"/machine.slice/machine-web.scope/payload/init.scope":                                   "web",
	"/machine.slice/machine-web.scope/payload/supervisor":                                   "web",
	`/machine.slice/machine-my\x2dweb.scope`:                                                "my-web",
	`/machine.slice/machine-my\x2Dweb.scope`:                                                "my-web",
	`/machine.slice/machine-fedora\x2d41.1.scope/system.slice`:                              "fedora-41.1",
	`/machine.slice/machine-lxc\x2d2293906\x2dbox.scope/libvirt`:                            "lxc-2293906-box",
	`/machine-test.slice/machine-web.scope`:                                                 "web",
	`/machine.slice/machine-qemu\x2dtest.scope`:                                             "qemu-test", // a user chose this name
	`/machine.slice/machine-a\x2.scope`:                                                     `a\x2`,
	`/machine.slice/machine-a\xzz\x2db\x.scope`:                                             `a\xzz-b\x`,
	"/machine.slice/systemd-nspawn@web.service":                                             "web",
	"/machine.slice/systemd-nspawn@my-web.service/payload":                                  "my-web",
	`/machine.slice/systemd-nspawn@my\x2dweb.service/payload/init.scope`:                    "my-web",
	"/docker/" + outerID + "/machine.slice/machine-web.scope/supervisor":                    outerID,
	"/machine.slice/machine-web.scope/payload/machine.slice/machine-inner.scope/payload":    "inner",
	"/machine.slice/machine-web.scope/payload/machine.slice/machine-inner.scope/supervisor": "web",
}

// noContainers are groups of the host itself.
var noContainers = []string{
	"", "/", "//", "/..", "/../..", "relative",
	"/init.scope",
	"/user.slice", "/user.slice/user-1000.slice/session-3.scope",
	"/user.slice/user-1000.slice/user@1000.service/init.scope",
	"/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-0c0cdd5d-6f04-4e1b-9d1c-3f9f3f1b3c5e.scope",
	"/user.slice/user-1000.slice/user@1000.service/app.slice/app-flatpak-org.mozilla.firefox-3024.scope",
	"/user.slice/user-1000.slice/user@1000.service/app.slice/snap.firefox.firefox-0c0cdd5d-6f04-4e1b-9d1c-3f9f3f1b3c5e.scope",
	"/system.slice", "/system.slice/systemd-modules-load.service", "/system.slice/system-getty.slice/getty@tty1.service",
	"/system.slice/run-r" + taskID + ".scope", "/system.slice/run-u12.service",
	"/system.slice/docker.service", "/system.slice/docker.socket", "/system.slice/containerd.service", "/system.slice/crio.service",
	"/system.slice/lxc.service", "/system.slice/lxc-net.service", "/system.slice/snap.lxd.daemon.service", "/system.slice/lxcfs.service",
	"/system.slice/systemd-machined.service", "/system.slice/machine-web.scope", "/system.slice/systemd-nspawn@web.slice",
	"/docker", "/docker/buildkit", "/buildkit", "/lxc", "/lxc.payload", "/lxc.pivot", "/ecs", "/ecs/" + taskID, "/machine.slice",
	"/system.slice/var-lib-docker-overlay2-" + outerID + "-merged.mount",

	// pods
	"/kubepods", "/kubepods.slice", "/kubepods/burstable/pod" + podUID, "/kubepods.slice/kubepods-podac04f3f2_1f2c_11e9_b015_1ebee232acfa.slice",
	"/machine.slice/machine-libpod_pod_" + outerID + ".slice", "/libpod_parent/" + outerID,

	// what looks after a container
	"/machine.slice/libpod-conmon-" + outerID + ".scope", "/libpod_parent/conmon", "/libpod_parent/" + outerID + "/conmon",
	"/system.slice/crio-conmon-" + outerID + ".scope", "/kubepods/pod" + podUID + "/crio-conmon-" + outerID,
	"/kubepods.slice/kubepods-podac04f3f2.slice/crio-conmon-" + outerID + ".scope", "/system.slice/conmon-" + outerID + ".scope",
	"/system.slice/web.service/supervisor", "/system.slice/web.service/runtime",
	"/lxc.monitor/web", "/lxc.monitor/" + outerID, "/lxc.monitor.web", "/lxc.monitor.web/x",
	"/machine.slice/machine-web.scope/supervisor", "/machine.slice/systemd-nspawn@web.service/supervisor",
	"/system.slice/" + outerID + ".service", "/system.slice/" + outerID + "-1a2b3c4d5e6f7a8b.service", // podman's health checks

	// virtual machines
	`/machine.slice/machine-qemu\x2d1\x2ddebian.scope`, `/machine.slice/machine-qemu\x2d1\x2ddebian.scope/libvirt/emulator`,
	`/machine.slice/machine-ch\x2d12\x2dguest.scope`,

	// no ID
	"/default/web", "/docker/web", "/docker/" + outerID[1:], "/docker/" + outerID + "0", "/docker/" + strings.ToUpper(outerID),
	"/docker/g" + outerID[1:], "/system.slice/docker-" + outerID[1:] + ".scope", "/system.slice/docker-.scope", "/system.slice/-.scope",
	"/a:b:c", "/a:" + outerID, "/a:b:c:" + outerID, "/a:b:" + outerID + ":c",
	"/buildkit/web", "/build/" + buildID, "/system.slice/" + buildID + ".scope", "/system.slice/web-" + buildID + ".scope", "/docker-" + buildID,
	"/system.slice/" + taskID + "-1234567890", "/ecs/" + taskID + "-", "/ecs/" + taskID + "-12a",
	"/lxc.payload.", "/lxc.payloads", "/lxcx/web", "/machine.slice/machine-.scope", "/machine.slice/machine-web.slice", "/machine.slice/web.scope",
	"/system.slice/systemd-nspawn@.service",
}

func TestContainerID(t *testing.T) {
	for cgroup, want := range containers {
		require.Equal(t, want, containerID(cgroup), cgroup)
		if inner := "/docker/" + outerID + cgroup; !strings.HasPrefix(cgroup, "/ecs/") {
			require.Equal(t, want, containerID(inner), inner)
		}
	}
	for _, cgroup := range noContainers {
		require.Empty(t, containerID(cgroup), cgroup)
		if inner := "/lxc/web/" + cgroup; !strings.HasPrefix(cgroup, "/ecs/") {
			require.Equal(t, "web", containerID(inner), inner)
		}
	}
}

func FuzzContainerID(f *testing.F) {
	for cgroup := range containers {
		f.Add(cgroup)
	}
	for _, cgroup := range noContainers {
		f.Add(cgroup)
	}
	f.Fuzz(func(t *testing.T, cgroup string) {
		id := containerID(cgroup)
		if !strings.Contains(cgroup, `\x`) {
			require.Contains(t, cgroup, id)
			require.NotContains(t, id, "/")
		}
		if strings.HasPrefix(cgroup, "/ecs/") {
			return
		}
		if id == "" {
			id = outerID
		}
		require.Equal(t, id, containerID("/docker/"+outerID+"/"+cgroup), "in a container are the same groups")
	})
}
