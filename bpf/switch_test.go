//go:build linux

package bpf

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTracerIsOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "enabled")
	tracer := tracer{"it is off", path}
	require.False(t, tracer.isOff(), "unknown is taken for on")
	for content, want := range map[string]bool{"0\n": true, "0": true, "1\n": false, "": false, "01": false} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.Equal(t, want, tracer.isOff(), "%q", content)
	}
	require.EqualError(t, tracer.off(), "it is off; write 1 to "+path)
}
