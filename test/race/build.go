package race

import "runtime/debug"

// BuildFlags returns the flags of go build for a program that a test starts. Under the
// race detector they enable it in the program as well; otherwise there are none.
func BuildFlags() []string {
	if !Enabled {
		return nil
	}
	flags := []string{"-race"}
	info, _ := debug.ReadBuildInfo()
	for _, setting := range info.Settings {
		if setting.Key == "-gcflags" {
			flags = append(flags, "-gcflags="+setting.Value)
		}
	}
	return flags
}
