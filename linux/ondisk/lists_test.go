//go:build linux

package ondisk

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// longPaths returns more module paths than fit into an index, of as many bytes as a line may
// have, each with the text after it.
func longPaths(after string) string {
	var text strings.Builder
	folder := strings.Repeat("/x", maxLine/2-20)
	for i := range maxIndexSize/maxLine + 10 {
		fmt.Fprintf(&text, "%s/%d.ko%s\n", folder, i, after)
	}
	return text.String()
}

func TestIndexIsBounded(t *testing.T) {
	paths := parseModulesDep(strings.NewReader("kernel/a.ko: kernel/b.ko\n" + longPaths(":")))
	require.Equal(t, "kernel/a.ko", paths["a"])
	size := 0
	for name, path := range paths {
		size += len(name) + len(path)
	}
	require.LessOrEqual(t, size, maxIndexSize)

	diversions, err := parseDiversions(strings.NewReader(longPaths("")))
	require.NoError(t, err)
	size = 0
	for from, by := range diversions {
		size += len(from) + len(by.to) + len(by.pack)
	}
	require.LessOrEqual(t, size, maxIndexSize+maxLine)
}

// It is unknown whether a package has a module that was left out.
func TestPackageIsUnknownIfTheListsAreTooLong(t *testing.T) {
	d := newDpkg(merged(t, map[string]string{
		"/var/lib/dpkg/info/a.list": "/opt/a.ko\n",
		"/var/lib/dpkg/info/b.list": longPaths(""),
	}))
	owner, err := d.owner(t.Context(), "/opt/a.ko")
	require.NoError(t, err)
	require.Equal(t, "a", owner)
	_, err = d.owner(t.Context(), "/opt/other.ko")
	require.ErrorIs(t, err, errCut)
}
