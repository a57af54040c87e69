package kmodquery

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Some events of macOS have no path: those of Endpoint Security, and a load that only a
// notification in the unified log reports.
func TestJoinModulesKeepsTheViewsPathIfNoEventHasOne(t *testing.T) {
	shown := []Module{
		{Name: "a", Path: "/private/tmp/a.kext", Views: []string{ViewShowloaded, ViewKextPolicy}},
		{Name: "b", Path: "/private/tmp/b.kext", Views: []string{ViewShowloaded}},
	}
	loaded := []Module{{Name: "a", LoadID: "1", Views: []string{ViewEvents}}, {Name: "b", LoadID: "2", Path: "/Library/b.kext", Views: []string{ViewEvents}}}
	joined := JoinModules(shown, loaded)
	require.Equal(t, "1 /private/tmp/a.kext", joined[0].LoadID+" "+joined[0].Path)
	require.Equal(t, "2 /Library/b.kext", joined[1].LoadID+" "+joined[1].Path)
}
