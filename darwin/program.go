package darwin

// Programs are the files of macOS that the sources and the inventory run or
// read, each by its absolute path, so that no PATH has a say. Tests put
// stand-ins in their places.
type Programs struct {
	Eslogger   string // prints Endpoint Security events; macOS 13 or later
	Log        string // reads the unified log
	Kmutil     string // lists what is loaded; macOS 11 or later
	Kextstat   string // the same before macOS 11
	Codesign   string // shows the signature of a bundle
	KextPolicy string // the database of allowed and loaded kernel extensions
	SwVers     string // says which macOS this is
}

// DefaultPrograms are where macOS has them.
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
