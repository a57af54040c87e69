package osqueryhost

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParsePack(t *testing.T) {
	pack, err := ParsePack("p", []byte(`
# a comment
{
  // another
  "platform": "linux",
  "discovery": ["SELECT 1"],
  "shard": "50",
  "queries": {
    "joined": {"query": "SELECT \
       1", "interval": "60", "removed": "False", "snapshot": 1},
    "hourly": {"query": "SELECT '# no comment'"}
  }
}`))
	require.NoError(t, err)
	require.Equal(t, []string{"SELECT 1"}, pack.Discovery)
	require.EqualValues(t, 50, pack.Shard)
	options := Options{Platform: "linux", Version: "5.23.0", HostIdentifier: "a"}
	pack.Shard = 100
	require.Equal(t, []scheduledQuery{
		{name: "pack_p_hourly", sql: "SELECT '# no comment'", interval: 3600, removed: true, denylist: true},
		{name: "pack_p_joined", sql: "SELECT        1", interval: 60, snapshot: true, denylist: true},
	}, pack.scheduled(options))

	_, err = ParsePack("p", []byte(`{"queries": {},}`))
	require.ErrorContains(t, err, "parse pack p")
}

func TestPackRunsOnMatchingHosts(t *testing.T) {
	query := map[string]Query{"q": {Query: "SELECT 1"}}
	interval := func(n number) *number { return &n }
	for name, test := range map[string]struct {
		pack Pack
		runs bool
	}{
		"anywhere":            {Pack{Queries: query}, true},
		"linux":               {Pack{Platform: "linux", Queries: query}, true},
		"ubuntu is linux":     {Pack{Platform: "ubuntu", Queries: query}, true},
		"posix":               {Pack{Platform: "posix", Queries: query}, true},
		"list":                {Pack{Platform: "darwin,linux", Queries: query}, true},
		"darwin":              {Pack{Platform: "darwin", Queries: query}, false},
		"any":                 {Pack{Platform: "any", Queries: query}, true},
		"version reached":     {Pack{Version: "5.9.1", Queries: query}, true},
		"version not reached": {Pack{Version: "5.24.0", Queries: query}, false},
		"shard":               {Pack{Shard: 1, Queries: query}, false}, // sha1("host") begins with 0x7d
		"query's platform":    {Pack{Queries: map[string]Query{"q": {Query: "SELECT 1", Platform: "windows"}}}, false},
		"interval 0":          {Pack{Queries: map[string]Query{"q": {Query: "SELECT 1", Interval: interval(0)}}}, false},
		"interval of 8 days":  {Pack{Queries: map[string]Query{"q": {Query: "SELECT 1", Interval: interval(691200)}}}, false},
		"no query":            {Pack{Queries: map[string]Query{"q": {}}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			queries := test.pack.scheduled(Options{Platform: "linux", Version: "5.23.0", HostIdentifier: "host"})
			require.Equal(t, test.runs, len(queries) == 1)
		})
	}
}

func TestVersionAtLeast(t *testing.T) {
	for _, test := range []struct {
		required, have string
		want           bool
	}{
		{"1.7.7", "1.7.7", true},
		{"1.7.7", "1.7.6", false},
		{"1.7.7", "1.10.0", true},
		{"1.7.7", "0.0.0", true},
		{"1.7.7", "", true},
		{"5.9", "5.9.1", true},
		{"5.a", "5.b", true},
		{"5.b", "5.a", false},
	} {
		require.Equal(t, test.want, versionAtLeast(test.required, test.have), "%s of %s", test.have, test.required)
	}
}

func TestEscape(t *testing.T) {
	for value, want := range map[string]string{
		"plain \\ é \x7f": "plain \\ é \x7f",
		"a\nb\x1b[0m":     `a\x0Ab\x1B[0m`,
		"\xff\xc3":        `\xFF\xC3`,
		"\xed\xa0\x80":    `\xED\xA0\x80`,
		"\ufffd":          "\ufffd",
	} {
		require.Equal(t, want, escape(value))
	}
}

func TestDiffComparesMultisets(t *testing.T) {
	r := func(names ...string) (rows []row) {
		for _, name := range names {
			rows = append(rows, row{"name": name, "time": int64(1)})
		}
		return rows
	}
	for name, test := range map[string]struct {
		before, after, added, removed []row
	}{
		"first":            {nil, r("a", "b"), r("a", "b"), nil},
		"same":             {r("a", "b"), r("b", "a"), nil, nil},
		"one more of many": {r("a", "a"), r("a", "a", "a"), r("a"), nil},
		"one less of many": {r("a", "a", "a"), r("a"), nil, r("a", "a")},
		"type":             {[]row{{"n": "1"}}, []row{{"n": int64(1)}, {"n": 1.0}}, []row{{"n": int64(1)}, {"n": 1.0}}, []row{{"n": "1"}}},
		"order":            {r("z", "y"), r("c", "b"), r("c", "b"), r("y", "z")},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, change{added: test.added, removed: test.removed}, diff(test.before, test.after))
		})
	}
}
