package rules

import (
	"syscall"
	"time"
)

// changed returns when a file was last changed.
func changed(s *syscall.Stat_t) time.Time { return time.Unix(s.Ctimespec.Unix()) }
