package human

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDurationTakesDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"10s": 10 * time.Second, "7d": 7 * 24 * time.Hour, "1d12h": 36 * time.Hour, "0": 0, "0d": 0, "-1s": -time.Second,
		"90m": 90 * time.Minute, "1d1m1s": 24*time.Hour + 61*time.Second,
	} {
		got, err := Duration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "d", "1", "-1d", "1d-1h", "1d24h", "1.5d", "d1", "1 d", "7days", "106752d", "106751d23h59m", "99999999999d", "1dd"} {
		_, err := Duration(text)
		require.EqualError(t, err, "write a time with its unit, d, h, m or s, such as 7d or 10s", text)
	}
}

func TestFormatIsReadByDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", 24 * time.Hour: "1d", 30 * 24 * time.Hour: "30d", 25 * time.Hour: "25h0m0s"} {
		require.Equal(t, want, Format(d))
		got, err := Duration(want)
		require.NoError(t, err)
		require.Equal(t, d, got)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"path", "pid", "process_path", "name", "pow", "kernel_module_findings", "expired_findings_of_all"}
	for typed, want := range map[string]string{"pth": "path", "nme": "name", "proces_path": "process_path", "zzz": "", "": "", "naem": "name", "pahts": "", "now": "", "pdi": "pid", "findings": "kernel_module_findings", "cess": "process_path", "ces": "", strings.Repeat("path", 20): ""} {
		require.Equal(t, want, Nearest(typed, names), typed)
	}
}
