package osqueryhost

import (
	"strconv"
	"strings"
)

// versionAtLeast reports whether have is required or later, as osquery
// compares (versionAtLeast, version.cpp). An empty version and 0.0.0 pass on either
// side; osquery-go relies on this.
func versionAtLeast(required, have string) bool {
	if required == "0.0.0" || have == "0.0.0" || have == "" {
		return true
	}
	wants := strings.Split(required, ".")
	for i, chunk := range strings.Split(have, ".") {
		if i >= len(wants) {
			return true
		}
		a, errA := strconv.Atoi(chunk)
		b, errB := strconv.Atoi(wants[i])
		switch {
		case errA != nil || errB != nil:
			if chunk < wants[i] {
				return false
			}
		case a != b:
			return a > b
		}
	}
	return true
}
