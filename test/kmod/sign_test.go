//go:build linux

package kmod

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSignAndStrip(t *testing.T) {
	image, err := objects.ReadFile("firmware_amd64.o")
	require.NoError(t, err)
	_, err = Strip(image)
	require.ErrorIs(t, err, errUnsigned)

	signed, err := Sign(image, "Somebody")
	require.NoError(t, err)
	stripped, err := Strip(signed)
	require.NoError(t, err)
	require.Equal(t, image, stripped)

	forged, err := Forge(signed)
	require.NoError(t, err)
	require.Len(t, forged, len(signed))
	different := 0
	for i := range signed {
		if signed[i] != forged[i] {
			different++
		}
	}
	require.Equal(t, 1, different)

	overlong, err := Overlong(signed)
	require.NoError(t, err)
	_, err = Strip(overlong)
	require.ErrorContains(t, err, "more than the module has")
}

// TestSignIsReadByKmod reads the signer with kmod, which parses signatures with
// OpenSSL.
func TestSignIsReadByKmod(t *testing.T) {
	modinfo, err := exec.LookPath("modinfo")
	if err != nil {
		t.Skip("no modinfo on this host (Debian's package kmod)")
	}
	image, err := objects.ReadFile("firmware_amd64.o")
	require.NoError(t, err)
	signed, err := Sign(image, "Somebody")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "module.ko")
	require.NoError(t, os.WriteFile(path, signed, 0o600))
	for field, want := range map[string]string{
		"sig_id":       "PKCS#7",
		"signer":       "Somebody",
		"sig_hashalgo": "sha256",
	} {
		out, err := exec.Command(modinfo, "-F", field, path).Output()
		require.NoError(t, err)
		require.Equal(t, want+"\n", string(out), field)
	}
}
