package loaded

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestListedReturnsWhatKmutilLists(t *testing.T) {
	h := newMac(t)
	modules, err := h.Listed(t.Context())
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{
		{Name: "com.apple.iokit.IOUSBHostFamily", Version: "1.2", State: "Live", Refs: new(int64(3)), Size: new(int64(0x4000)),
			UsedBy: []string{probe}, Views: []string{"showloaded"}},
		{Name: probe, Version: "1.2.3", State: "Live", Refs: new(int64(1)), Size: new(int64(0xff9)),
			Address: new(int64(-0x8069574000)), Views: []string{"showloaded"}},
	}, modules)
	require.False(t, modules[0].IsHidden())
	arguments, err := os.ReadFile(filepath.Join(h.dir, "kmutil.arguments"))
	require.NoError(t, err)
	require.Equal(t, "showloaded --list-only --no-kernel-components\n", string(arguments))
}

func TestListedNeedsKmutil(t *testing.T) {
	h := newMac(t)
	h.programs.Kmutil = filepath.Join(h.dir, "nosuch")
	_, err := h.Listed(t.Context())
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
}

func TestListedFailsIfKmutilFails(t *testing.T) {
	h := newMac(t)
	h.write("kmutil_fails", "Error Domain=KMErrorDomain Code=71\n\"Could not determine\"\n")
	_, err := h.Listed(t.Context())
	require.ErrorContains(t, err, `exit status 1: Error Domain=KMErrorDomain Code=71 "Could not determine"`)
	require.NotContains(t, err.Error(), "\n")
	require.NoError(t, os.Remove(filepath.Join(h.dir, "kmutil_fails")))

	h.write("showloaded", "")
	_, err = h.Listed(t.Context())
	require.ErrorContains(t, err, "lists none")

	h.write("showloaded", strings.Repeat(probeRow, maxList/len(probeRow)+1))
	_, err = h.Listed(t.Context())
	require.ErrorIs(t, err, errTooLong)

	h.write("kmutil_hangs", "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = h.Listed(ctx)
	require.ErrorContains(t, err, "did not end")
	require.Less(t, time.Since(began), time.Minute)
}

func TestParseListIgnoresOtherAndRepeatedLines(t *testing.T) {
	modules, unparsed := parseList("Executing: /usr/bin/kmutil showloaded\n" +
		"Index Refs Address            Size       Wired      Name (Version) UUID <Linked Against>\n" +
		"x   1 0x1 0x1 0x1 com.example.x (1)\n" +
		"  1  -1 0x1 0x1 0x1 com.example.a ()\r\n" +
		"  1   1 0x1 0x1 0x1 com.example.a (2)\n" +
		"  6   1 0x1 0x1 0x1 com.example.a (2) again\n" +
		"  7   1 0x1 0x1 0x1 com.example (1) d (2 (b(3)))\n" +
		"  8   1 0x1 0x1 0x1 _e f (2))\n" +
		"  9   1 0x1 0x1 0x1  (2)\n" +
		"  2   1 0x1 0x1 0x1 com.example.b (2) D850472E-1111-2222-3333-444455556666\n" +
		"  3   1 0x1 0x1 0x1 com.example.b (3)\n" +
		"  4   1 0x11111111111111111 0x1 0x1 com.example.c (3)\n")
	var listed []string
	for _, m := range modules {
		listed = append(listed, m.Name+"|"+m.Version)
	}
	require.Equal(t, []string{"com.example.a|", "com.example (1) d|2 (b(3))", "_e f|2)", "com.example.b|2"}, listed)
	require.Equal(t, []string{
		"  6   1 0x1 0x1 0x1 com.example.a (2) again", "  9   1 0x1 0x1 0x1  (2)", "  4   1 0x11111111111111111 0x1 0x1 com.example.c (3)",
	}, unparsed)
	require.EqualValues(t, -1, *modules[0].Refs)
}
