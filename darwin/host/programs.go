package host

// Programs are the programs and files of macOS that this package asks, as
// absolute paths. None of them is looked for anywhere else.
type Programs struct {
	Eslogger   string // Endpoint Security events as JSON, from macOS 13 on
	Log        string // the unified log
	Kmutil     string // loaded kernel extensions, from macOS 11 on
	Kextstat   string // the same before macOS 11
	Codesign   string // the signature of a bundle
	KextPolicy string // the database of allowed and of loaded kernel extensions
	SwVers     string // the version of macOS
}

// DefaultPrograms are where macOS has them. All but KextPolicy lie on the sealed
// system volume.
func DefaultPrograms() Programs {
	return Programs{
		Eslogger:   "/usr/bin/eslogger",
		Log:        "/usr/bin/log",
		Kmutil:     "/usr/bin/kmutil",
		Kextstat:   "/usr/sbin/kextstat",
		Codesign:   "/usr/bin/codesign",
		KextPolicy: "/var/db/SystemPolicyConfiguration/KextPolicy",
		SwVers:     "/usr/bin/sw_vers",
	}
}
