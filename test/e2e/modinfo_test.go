//go:build linux

package e2e

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// modinfo returns the fields of a module's .modinfo section. Of several values with the
// same name, it returns the first.
func modinfo(t *testing.T, image []byte) map[string]string {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(image))
	require.NoError(t, err)
	section := file.Section(".modinfo")
	require.NotNil(t, section)
	content, err := section.Data()
	require.NoError(t, err)
	values := map[string]string{}
	for _, entry := range strings.Split(string(content), "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		if _, again := values[name]; !again {
			values[name] = value
		}
	}
	return values
}

// modinfoField runs kmod's modinfo on an image and returns a field of the signature.
func modinfoField(t *testing.T, image []byte, field string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "module.ko")
	require.NoError(t, os.WriteFile(path, image, 0o600))
	out, err := exec.Command("modinfo", "-F", field, path).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}
