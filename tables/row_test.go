package tables

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/hostile"
)

func FuzzCell(f *testing.F) {
	for _, text := range append(hostile.Texts(), "\x00", "\\\x00", "\\x\x00", "\\x0\x80") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, bytes string) {
		text := cell("params", bytes)
		require.Empty(t, hostile.Harm(text))
		require.Equal(t, bytes, hostile.Unescape(text))
		if plain(bytes) {
			require.Equal(t, bytes, text)
			require.Equal(t, bytes, cell("ancestors", bytes))
		}
		require.Empty(t, hostile.Harm(cell("ancestors", bytes)), "a store may hold what no source writes")
		event := full()
		event.Params = &bytes
		event.Ancestors = jsonOf(t, []map[string]string{{"comm": kmodquery.Escape(bytes)}})
		shown := object(&event)
		require.Empty(t, hostile.Harm(shown))
		var decoded struct{ Params, Ancestors string }
		require.NoError(t, json.Unmarshal([]byte(shown), &decoded))
		require.Equal(t, text, decoded.Params)
		require.Equal(t, event.Ancestors, decoded.Ancestors)
	})
}

func jsonOf(t testing.TB, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	return string(text)
}
