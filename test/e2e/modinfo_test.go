//go:build linux

package e2e

import (
	"bytes"
	"debug/elf"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// modinfo reads one value of a module's .modinfo section.
func modinfo(t *testing.T, image []byte, key string) string {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(image))
	require.NoError(t, err)
	section := file.Section(".modinfo")
	require.NotNil(t, section)
	content, err := section.Data()
	require.NoError(t, err)
	for _, entry := range strings.Split(string(content), "\x00") {
		if value, ok := strings.CutPrefix(entry, key+"="); ok {
			return value
		}
	}
	t.Fatalf("no %s in .modinfo", key)
	return ""
}
