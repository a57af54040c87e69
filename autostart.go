package kmodquery

// Places of the host's configuration that load modules, as the place column of the autostart
// table spells them.
const (
	PlaceModulesLoad = "modules-load.d" // modules-load.d(5), and /etc/modules, to which Debian links it
	PlaceModprobe    = "modprobe.d"     // modprobe.d(5), and depmod's modules.softdep and modules.weakdep
	PlaceCmdline     = "cmdline"        // the running kernel's command line
	PlaceSysctl      = "sysctl"         // kernel.modprobe, now and in sysctl.d(5)
	PlaceUdev        = "udev"           // the programs that rules of udev(7) run
	PlaceModulesDep  = "modules.dep"    // differences between what depmod(8) wrote for kmod and its text
	PlaceInitramfs   = "initramfs-tools"
	PlaceDracut      = "dracut"       // dracut.conf(5)
	PlaceNextCmdline = "next_cmdline" // the kernel's command line in the configuration of boot loaders
	PlaceDepmod      = "depmod.d"     // depmod.d(5)
	PlaceDKMS        = "dkms"         // dkms(8)
	PlacePrograms    = "programs"     // units of systemd and scripts of init and cron with a line that names a module tool
)

// Stages at which an [AutostartEntry] takes effect.
const (
	StageInitrd   = "initrd"   // in the initial file system
	StageBoot     = "boot"     // once, when the host boots
	StageEvent    = "event"    // when a device appears or changes
	StageAutoload = "autoload" // whenever modprobe loads a module, also for the kernel
)

// An AutostartEntry is one line of the host's configuration that loads a module, or that
// changes what is loaded, and one of the modules that it names. An empty string and a nil
// pointer mean that the fact is unknown or does not apply.
type AutostartEntry struct {
	Place     string // one of the Place constants
	Stage     string // one of the Stage constants
	File      string // that has the line, with links resolved
	Line      int64  // number of the line in the file, from 1; 0 if the entry is the file itself
	Text      string
	Action    string // load, or the line's command, such as install
	Name      string // of the module that is loaded or configured, in the kernel's spelling
	Requested string // name, alias or pattern that the line applies to
	Argument  string // options of the module, a command, or how the module depends on another
	Effective *int64 // 1 if the line takes effect, otherwise 0
	Reason    string // why Effective is 0 or unknown, or what changes the effect
	Path      string // of the module's file that modprobe would load now
	UID       *int64 // owner of File
	Mode      *int64 // permissions of File
	Mtime     *int64 // Unix time in seconds at which File was last modified
	Missing   Columns
}
