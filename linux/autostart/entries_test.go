//go:build linux

package autostart

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// shown returns an entry as one line: where it is, what it does to which module, and whether
// it takes effect.
func shown(e kmodquery.AutostartEntry) string {
	effective := "?"
	if e.Effective != nil {
		effective = fmt.Sprint(*e.Effective)
	}
	return fmt.Sprintf("%s %s:%d %s %s<%s %q %s %s|%s", e.Place, e.File, e.Line, e.Action, e.Name, e.Requested, e.Argument, effective, e.Path, e.Reason)
}

func allShown(entries []kmodquery.AutostartEntry) []string {
	var lines []string
	for _, e := range entries {
		lines = append(lines, shown(e))
	}
	return lines
}

func TestEntries(t *testing.T) {
	files := kernel([]string{"dummy", "snd-pcm", "loop", "evil", "i2c-dev", "hid"}, map[string]string{"pci:v*d0001*": "hid", "fs-loop": "loop"})
	const folder = "/usr/lib/modules/" + release + "/kernel/"
	for path, content := range map[string]string{
		"/etc/modules":                     "# comment\n\n  loop\t\n",
		"/etc/modules-load.d/modules.conf": "-> ../modules",
		"/etc/modules-load.d/b.conf":       "snd_pcm\n; comment\nfs-loop\nno-such\ntty\ndummy\n",
		"/usr/lib/modules-load.d/b.conf":   "evil\n",
		"/usr/lib/modules-load.d/c.conf":   "evil\n",
		"/run/modules-load.d/c.conf":       "-> /dev/null",
		"/usr/lib/modules-load.d/c.txt":    "evil\n",
		"/etc/modprobe.d/a.conf": "blacklist dummy\nalias my-* i2c-dev\noptions i2c_dev x=1 \\\n  y=2\ninstall loop /bin/true\n" +
			"install loop /bin/false\nsoftdep hid pre: my-dep post: no-such\nremove hid /bin/echo\ninclude /x\nbad\n",
		"/usr/lib/modprobe.d/a.conf": "blacklist evil\n",
		"/proc/cmdline":              "quiet modules_load=evil rd.modules_load=hid snd_pcm.index=\"1 2\" modprobe.blacklist=snd_pcm module_blacklist=evil -- a.b=1\n",
	} {
		files[path] = content
	}
	root := newRoot(t, files)
	require.Equal(t, []string{
		`modules-load.d /etc/modules-load.d/b.conf:1 load snd_pcm<snd_pcm "" 0 ` + folder + `snd-pcm.ko|/proc/cmdline blacklists the module`,
		`modules-load.d /etc/modules-load.d/b.conf:3 load loop<fs-loop "" 1 ` + folder + `loop.ko|/etc/modprobe.d/a.conf:5 has a command that runs instead`,
		`modules-load.d /etc/modules-load.d/b.conf:4 load no_such<no-such "" 0 |modprobe finds no module of this name or alias`,
		`modules-load.d /etc/modules-load.d/b.conf:5 load tty<tty "" 0 |the module is built into the kernel`,
		`modules-load.d /etc/modules-load.d/b.conf:6 load dummy<dummy "" 0 ` + folder + `dummy.ko|/etc/modprobe.d/a.conf:1 blacklists the module`,
		`modules-load.d /usr/lib/modules-load.d/b.conf:1 load evil<evil "" 0 ` + folder + `evil.ko|/etc/modules-load.d/b.conf takes precedence`,
		`modules-load.d /usr/lib/modules-load.d/c.conf:1 load evil<evil "" 0 ` + folder + `evil.ko|/run/modules-load.d/c.conf takes precedence and is a link to /dev/null`,
		`modules-load.d /etc/modules:3 load loop<loop "" 1 ` + folder + `loop.ko|/etc/modprobe.d/a.conf:5 has a command that runs instead`,
		`modprobe.d /etc/modprobe.d/a.conf:1 blacklist dummy<dummy "" 1 ` + folder + `dummy.ko|`,
		`modprobe.d /etc/modprobe.d/a.conf:2 alias i2c_dev<my_* "" 1 ` + folder + `i2c-dev.ko|`,
		`modprobe.d /etc/modprobe.d/a.conf:4 options i2c_dev<i2c_dev "x=1   y=2" 1 ` + folder + `i2c-dev.ko|`,
		`modprobe.d /etc/modprobe.d/a.conf:5 install loop<loop "/bin/true" 1 ` + folder + `loop.ko|`,
		`modprobe.d /etc/modprobe.d/a.conf:6 install loop<loop "/bin/false" 0 ` + folder + `loop.ko|/etc/modprobe.d/a.conf:5 has the first line for the module`,
		`modprobe.d /etc/modprobe.d/a.conf:7 softdep i2c_dev<hid "pre" 1 ` + folder + `i2c-dev.ko|`,
		`modprobe.d /etc/modprobe.d/a.conf:7 softdep no_such<hid "post" 0 |modprobe finds no module of this name or alias`,
		`modprobe.d /etc/modprobe.d/a.conf:8 remove hid<hid "/bin/echo" 1 ` + folder + `hid.ko|`,
		`modprobe.d /etc/modprobe.d/a.conf:9 include </x "" 0 |kmod ignores this command`,
		`modprobe.d /etc/modprobe.d/a.conf:10 bad < "" 0 |kmod does not understand the line`,
		`modprobe.d /usr/lib/modprobe.d/a.conf:1 blacklist evil<evil "" 0 ` + folder + `evil.ko|/etc/modprobe.d/a.conf takes precedence`,
		`cmdline /proc/cmdline:0 load evil<evil "" 0 ` + folder + `evil.ko|module_blacklist= on the kernel's command line names the module`,
		`cmdline /proc/cmdline:0 load hid<hid "" ? ` + folder + `hid.ko|it depends on the files in the initial file system`,
		`cmdline /proc/cmdline:0 blacklist evil<evil "" 1 ` + folder + `evil.ko|`,
		`cmdline /proc/cmdline:0 blacklist snd_pcm<snd_pcm "" 1 ` + folder + `snd-pcm.ko|`,
		`cmdline /proc/cmdline:0 options snd_pcm<snd_pcm "index=\"1 2\"" 1 ` + folder + `snd-pcm.ko|`,
		`cmdline /proc/cmdline:0 options a<a "b=1" 1 |`,
	}, allShown(entriesOf(t, root)))
}

func TestSysctlUdevAndInitialFileSystems(t *testing.T) {
	files := kernel([]string{"loop", "hid"}, nil)
	const folder = "/usr/lib/modules/" + release + "/kernel/"
	for path, content := range map[string]string{
		"/proc/sys/kernel/modprobe":                        "/sbin/modprobe\n",
		"/etc/sysctl.conf":                                 "kernel.modprobe=\n",
		"/etc/sysctl.d/99-sysctl.conf":                     "-> ../sysctl.conf",
		"/usr/lib/sysctl.d/10-a.conf":                      "# kernel.modprobe=/x\n-kernel/modprobe = /tmp/evil\nkernel.mod*=/glob\nkernel.modprobe\nvm.x=1\n",
		"/etc/udev/rules.d/10-a.rules":                     "# RUN+=\"x\"\nACTION==\"add\", ENV{A, B}==\"x\", \\\n  RUN{program}+=\"/bin/sh -c 'a, b'\", RUN+=e\"x\\\"y\"\nRUN{builtin}+=\"kmod load loop\"\nRUN{builtin}+=\"kmod load $env{MODALIAS}\"\nIMPORT{builtin}=\"usb_id\"\n",
		"/usr/lib/udev/rules.d/10-a.rules":                 "PROGRAM==\"/usr/bin/id\"\nRUN=\n",
		"/etc/initramfs-tools/modules":                     "# list\nloop max_loop=8\n",
		"/usr/share/initramfs-tools/modules.d/x":           "hid\n",
		"/etc/initramfs-tools/scripts/init-top/evil":       "insmod x",
		"/usr/share/initramfs-tools/scripts/init-top/evil": "",
		"/etc/initramfs-tools/hooks/h":                     "",
		"/etc/dracut.conf.d/a.conf":                        "add_drivers+=\" loop =net \" # x\nhostonly=yes\nforce_drivers=hid\ninstall_items+='/opt/x'\n",
		"/usr/lib/dracut/dracut.conf.d/a.conf":             "add_drivers+=\"hid\"\n",
	} {
		files[path] = content
	}
	const unknown = "|it depends on the files in the initial file system"
	require.Equal(t, []string{
		`sysctl /proc/sys/kernel/modprobe:0 modprobe < "/sbin/modprobe" 1 |`,
		`sysctl /usr/lib/sysctl.d/10-a.conf:2 modprobe < "/tmp/evil" 0 |/etc/sysctl.conf:1 sets it too, and takes precedence`,
		`sysctl /usr/lib/sysctl.d/10-a.conf:3 modprobe < "/glob" 0 |/etc/sysctl.conf:1 sets it too, and takes precedence`,
		`sysctl /etc/sysctl.conf:1 modprobe < "" 1 |`,
		`udev /etc/udev/rules.d/10-a.rules:3 RUN{program} < "/bin/sh -c 'a, b'" 1 |`,
		`udev /etc/udev/rules.d/10-a.rules:3 RUN < "x\"y" 1 |`,
		`udev /etc/udev/rules.d/10-a.rules:4 RUN{builtin} loop<loop "kmod load loop" 1 ` + folder + `loop.ko|`,
		`udev /etc/udev/rules.d/10-a.rules:5 RUN{builtin} < "kmod load $env{MODALIAS}" 1 |`,
		`udev /usr/lib/udev/rules.d/10-a.rules:1 PROGRAM < "/usr/bin/id" 0 |/etc/udev/rules.d/10-a.rules takes precedence`,
		`initramfs-tools /etc/initramfs-tools/modules:2 load loop<loop "max_loop=8" ? ` + folder + `loop.ko` + unknown,
		`initramfs-tools /usr/share/initramfs-tools/modules.d/x:1 load hid<hid "" ? ` + folder + `hid.ko` + unknown,
		`initramfs-tools /etc/initramfs-tools/scripts/init-top/evil:0 script < "" ? ` + unknown,
		`initramfs-tools /usr/share/initramfs-tools/scripts/init-top/evil:0 script < "" 0 |/etc/initramfs-tools/scripts/init-top/evil takes precedence`,
		`initramfs-tools /etc/initramfs-tools/hooks/h:0 script < "" ? ` + unknown,
		`dracut /etc/dracut.conf.d/a.conf:1 add_drivers loop<loop "loop" ? ` + folder + `loop.ko` + unknown,
		`dracut /etc/dracut.conf.d/a.conf:1 add_drivers < "=net" ? ` + unknown,
		`dracut /etc/dracut.conf.d/a.conf:3 force_drivers hid<hid "hid" ? ` + folder + `hid.ko` + unknown,
		`dracut /etc/dracut.conf.d/a.conf:4 install_items < "/opt/x" ? ` + unknown,
		`dracut /usr/lib/dracut/dracut.conf.d/a.conf:1 add_drivers hid<hid "hid" 0 ` + folder + `hid.ko|/etc/dracut.conf.d/a.conf takes precedence`,
	}, allShown(entriesOf(t, newRoot(t, files))))
}

func TestNextBootDepmodDKMSAndPrograms(t *testing.T) {
	files := kernel([]string{"loop", "hid"}, nil)
	const folder = "/usr/lib/modules/" + release + "/kernel/"
	for path, content := range map[string]string{
		"/etc/default/grub":                            "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet modules_load=loop\"\n",
		"/boot/grub/grub.cfg":                          "menuentry x {\n\tlinux /vmlinuz-6.1.0 root=/dev/sda1 module_blacklist=hid\n}\n",
		"/boot/loader/entries/a.conf":                  "title x\noptions hid.debug=1\n",
		"/etc/depmod.d/a.conf":                         "search evil updates built-in\noverride loop * extra\nbad\n",
		"/lib/depmod.d/a.conf":                         "search built-in\n",
		"/usr/src/evil-1.0/dkms.conf":                  "PACKAGE_NAME=evil\nBUILT_MODULE_NAME[0]=\"e-vil\"\nAUTOINSTALL=yes\nPOST_INSTALL=x.sh\n",
		"/usr/src/linux/README":                        "AUTOINSTALL=yes",
		"/etc/systemd/system/a.service":                "# insmod\nExecStart=/sbin/insmod /tmp/x.ko\nExecStop=/bin/true\n",
		"/usr/lib/systemd/system/a.service":            "ExecStart=/sbin/modprobe y\n",
		"/usr/lib/systemd/system/ssh.service.d/b.conf": "[Unit]\nDocumentation=man:modprobe(8)\nAfter=modprobe@drm.service\nWants=modprobe@z-z.service\n[Service]\nExecStartPre=-/sbin/modprobe z\n",
		"/etc/init.d/kmod":                             "#!/bin/sh\n\tkmod load\nkmodule\n",
		"/etc/init.d/sub/x":                            "insmod",
		"/etc/rc.local":                                "insmod /x.ko\n",
		"/usr/lib/systemd/system-generators/elf":       "\x7fELF\ninsmod\n",
	} {
		files[path] = content
	}
	const next, run = "|it depends on what the boot loader boots next", "|it depends on whether the program is run"
	require.Equal(t, []string{
		`next_cmdline /etc/default/grub:2 load loop<loop "" ? ` + folder + `loop.ko` + next,
		`next_cmdline /boot/grub/grub.cfg:2 blacklist hid<hid "" ? ` + folder + `hid.ko` + next,
		`next_cmdline /boot/loader/entries/a.conf:2 options hid<hid "debug=1" ? ` + folder + `hid.ko` + next,
		`depmod.d /etc/depmod.d/a.conf:1 search < "evil updates built-in" 1 |`,
		`depmod.d /etc/depmod.d/a.conf:2 override loop<loop "loop * extra" 1 |`,
		`depmod.d /etc/depmod.d/a.conf:3 bad < "" 0 |depmod does not understand the line`,
		`depmod.d /usr/lib/depmod.d/a.conf:1 search < "built-in" 0 |/etc/depmod.d/a.conf takes precedence`,
		`dkms /usr/src/evil-1.0/dkms.conf:2 BUILT_MODULE_NAME[0] e_vil< "e-vil" 1 |`,
		`dkms /usr/src/evil-1.0/dkms.conf:3 AUTOINSTALL < "yes" 1 |`,
		`dkms /usr/src/evil-1.0/dkms.conf:4 POST_INSTALL < "x.sh" 1 |`,
		`programs /etc/systemd/system/a.service:2 ExecStart < "ExecStart=/sbin/insmod /tmp/x.ko" ? ` + run,
		`programs /usr/lib/systemd/system/a.service:1 ExecStart < "ExecStart=/sbin/modprobe y" 0 |/etc/systemd/system/a.service takes precedence`,
		`programs /usr/lib/systemd/system/ssh.service.d/b.conf:4 Wants z_z<z-z "Wants=modprobe@z-z.service" ? ` + run,
		`programs /usr/lib/systemd/system/ssh.service.d/b.conf:6 ExecStartPre < "ExecStartPre=-/sbin/modprobe z" ? ` + run,
		`programs /etc/init.d/kmod:2  < "kmod load" ? ` + run,
		`programs /etc/rc.local:1  < "insmod /x.ko" ? ` + run,
	}, allShown(entriesOf(t, newRoot(t, files))))
}

// depmod writes soft and weak dependencies that modules declare.
func TestDependenciesThatDepmodWrote(t *testing.T) {
	files := kernel([]string{"loop", "hid"}, nil)
	const folder = "/usr/lib/modules/" + release
	files[folder+"/modules.softdep"] = "# Soft dependencies\nsoftdep loop post: hid\n"
	files[folder+"/modules.weakdep"] = "weakdep loop hid\n"
	require.Equal(t, []string{
		`modprobe.d ` + folder + `/modules.softdep:2 softdep hid<loop "post" 1 ` + folder + `/kernel/hid.ko|`,
		`modprobe.d ` + folder + `/modules.weakdep:1 weakdep hid<loop "weak" 1 ` + folder + `/kernel/hid.ko|modprobe does not load it: tools that make an initial file system include it`,
	}, allShown(entriesOf(t, newRoot(t, files))))
}
