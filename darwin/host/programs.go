package host

// Programs holds the absolute paths of the programs and files of macOS that
// kmodquery uses. It looks for them nowhere else.
type Programs struct {
	Eslogger   string // prints Endpoint Security events as JSON; macOS 13 or later
	Log        string // prints the unified log
	Kmutil     string // lists the loaded kernel extensions
	Csrutil    string // prints whether the system volume must have Apple's seal
	Codesign   string // prints the signature of a bundle
	KextPolicy string // database of the allowed kernel extensions and of past loads
}

// DefaultPrograms returns the paths on macOS. All but KextPolicy are on the sealed
// system volume.
func DefaultPrograms() Programs {
	return Programs{
		Eslogger:   "/usr/bin/eslogger",
		Log:        "/usr/bin/log",
		Kmutil:     "/usr/bin/kmutil",
		Csrutil:    "/usr/bin/csrutil",
		Codesign:   "/usr/bin/codesign",
		KextPolicy: "/var/db/SystemPolicyConfiguration/KextPolicy",
	}
}
