package kmodquery

import (
	"fmt"
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

// A module is its load: of two with one name, the views show the first, and the other hides.
func TestJoinModulesKeepsLoadsOfOneNameApart(t *testing.T) {
	shown := []Module{{Name: "a", Views: []string{ViewModules}}, {Name: "b!c", Views: []string{ViewSysfs}}}
	loaded := []Module{
		{Name: "a", LoadID: "2", Path: "/honest.ko", Views: []string{ViewEvents}}, {Name: "a", LoadID: "1", Path: "/rootkit.ko", Views: []string{ViewEvents}},
		{Name: "a", LoadID: "0"}, {Name: "b/c", LoadID: "3", Views: []string{ViewEvents}},
	}
	var rows []string
	for _, m := range JoinModules(shown, loaded) {
		rows = append(rows, fmt.Sprint(m.Name, " ", m.LoadID, " ", m.Path, " ", m.IsHidden()))
	}
	require.Equal(t, []string{"a 2 /honest.ko false", "b/c 3  true", "a 1 /rootkit.ko true"}, rows)
}
