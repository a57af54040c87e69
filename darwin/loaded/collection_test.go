package loaded

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCollectionIsTheOnlyOneThatListsAnExtension(t *testing.T) {
	h := newMac(t)
	row := func(name string) string { return strings.Replace(probeRow, probe, name, 1) }
	h.write("showloaded.boot", row("a.boot")+row("a.both"))
	h.write("showloaded.aux", row("a.both")+row("com.apple.evil"))
	h.write("showloaded.codeless", row("a.codeless"))
	for name, want := range map[string]string{
		"a.boot": "boot", "com.apple.evil": "auxiliary", "a.codeless": "codeless", "a.both": "unknown", "com.apple.later": "unknown",
	} {
		require.Equal(t, want, h.Collection(t.Context(), name), name)
	}
	runs := func() int {
		text, err := os.ReadFile(filepath.Join(h.dir, "kmutil.arguments"))
		require.NoError(t, err)
		return strings.Count(string(text), "--collection")
	}
	require.Equal(t, 4, runs(), "each collection is listed once")

	h.write("showloaded.sys", row("com.apple.later"))
	h.collections.next = time.Time{}
	require.Equal(t, "system", h.Collection(t.Context(), "com.apple.later"))
	require.Equal(t, 8, runs())
}

func TestCollectionIsUnknownIfKmutilListsNone(t *testing.T) {
	h := newMac(t)
	require.Equal(t, "unknown", h.Collection(t.Context(), probe))
	require.Greater(t, time.Until(h.collections.next), collectionsPause, "it is not tried again soon")
	modules, err := h.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, "unknown", modules[0].Collection)
}

func TestAuthenticatedRootIsWhatCsrutilPrints(t *testing.T) {
	for text, want := range map[string]*int64{
		"Authenticated Root status: enabled\n":                 new(int64(1)),
		"Authenticated Root status: disabled\n":                new(int64(0)),
		"Authenticated Root status: unknown\n":                 nil,
		"Authenticated Root status: enabled (Custom Policy)\n": nil,
		"System Integrity Protection status: enabled.\n":       nil,
	} {
		h := newMac(t)
		h.write("csrutil.status", text)
		require.Equal(t, want, h.AuthenticatedRoot(t.Context()), text)
	}
	h := newMac(t)
	require.Nil(t, h.AuthenticatedRoot(t.Context()))
	h.write("csrutil.status", "Authenticated Root status: enabled\n")
	require.EqualValues(t, 1, *h.AuthenticatedRoot(t.Context()))
}
