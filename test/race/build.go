package race

import "runtime/debug"

// BuildFlags are the flags of go build by which a program that a test starts is
// watched as the test is: none without the race detector.
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
