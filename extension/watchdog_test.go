package main

import (
	"testing"

	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"
)

func TestReplyIsBoundedByOsquerysWatchdog(t *testing.T) {
	for name, test := range map[string]struct {
		flags map[string]string
		want  int64
	}{
		"unknown":       {nil, 60 << 20},
		"the default":   {map[string]string{"disable_watchdog": "false", "watchdog_level": "0", "watchdog_memory_limit": "0"}, 60 << 20},
		"restrictive":   {map[string]string{"watchdog_level": "1"}, 30 << 20},
		"none by level": {map[string]string{"watchdog_level": "-1"}, 0},
		"a limit":       {map[string]string{"watchdog_level": "1", "watchdog_memory_limit": "1000"}, 300 << 20},
		"switched off":  {map[string]string{"disable_watchdog": "true", "watchdog_memory_limit": "1000"}, 0},
		"nonsense":      {map[string]string{"watchdog_memory_limit": "x"}, 60 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			flags := gen.InternalOptionList{}
			for flag, value := range test.flags {
				flags[flag] = &gen.InternalOptionInfo{Value: value}
			}
			require.Equal(t, test.want, workerBytes(flags))
		})
	}
}
