package views

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestParseListed(t *testing.T) {
	text := "ext4 1105920 1 - Live 0xffffffffc09e2000\n" +
		"crc16 12288 2 ext4,bluetooth, Live 0xffffffffc04e5000\n" +
		"kvm_intel 487424 0 - Loading 0xffffffffc0600000 (+)\n" +
		"vboxdrv 704512 2 vboxnetadp,[permanent], Unloading 0xffffffffc0a00000 (POE-)\n" +
		"old 100 - - Live 0x0\n"
	modules, _, err := parseListed(t.Context(), strings.NewReader(text), nil, nil)
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{
		{Name: "ext4", Size: new(int64(1105920)), Refs: new(int64(1)), State: "Live", Address: kernelAddress(0xffffffffc09e2000), Taints: new(int64(0))},
		{Name: "crc16", Size: new(int64(12288)), Refs: new(int64(2)), UsedBy: []string{"ext4", "bluetooth"}, State: "Live",
			Address: kernelAddress(0xffffffffc04e5000), Taints: new(int64(0))},
		{Name: "kvm_intel", Size: new(int64(487424)), Refs: new(int64(0)), State: "Loading", Address: kernelAddress(0xffffffffc0600000), Taints: new(int64(0))},
		{Name: "vboxdrv", Size: new(int64(704512)), Refs: new(int64(2)), UsedBy: []string{"vboxnetadp"}, State: "Unloading",
			Address: kernelAddress(0xffffffffc0a00000), Taints: new(int64(1 | 1<<12 | 1<<13))},
		{Name: "old", Size: new(int64(100)), State: "Live", Taints: new(int64(0))},
	}, modules)

	bytewise, _, err := parseListed(t.Context(), chunked{iotest.OneByteReader(strings.NewReader(text)), 1}, nil, nil)
	require.NoError(t, err)
	require.Equal(t, modules, bytewise)
}

// A module can choose any name, and no name makes its line look like another module's.
func TestParseListedHostileNames(t *testing.T) {
	const rest = " 16384 0 - Live 0xffffffffc0000000 (OE)\n"
	for _, name := range []string{
		"a b", "a\nb", "\n", " ", "x 1 2 -", "x 1 2 y,", "x 1 2 - Live 0x1", "x (OE)", "\xff\x00\x1b[2J", "a\n\nb\n",
		strings.Repeat("n", 55), strings.Repeat("\n", 55), "-", "[bpf]", "../../etc",
	} {
		modules, _, err := parseListed(t.Context(), strings.NewReader("first"+rest+name+rest+"last"+rest), nil, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"first", name, "last"}, namesOf(modules), "%q", name)
	}
	// A name that contains a complete line counts as two modules, unless sysfs shows the module
	// by its real name.
	modules, _, err := parseListed(t.Context(), strings.NewReader("x 1 0 - Live 0x1\ny"+rest), nil, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"x", "y"}, namesOf(modules))

	// A user with a space in its name.
	modules, _, err = parseListed(t.Context(), strings.NewReader("used 16384 1 a b, Live 0x0\n"), nil, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"used"}, namesOf(modules))
	require.Equal(t, []string{"a b"}, modules[0].UsedBy)
}

func TestParseListedIgnoresInvalidLines(t *testing.T) {
	for _, text := range []string{
		"", "\n", "name", "name size 0 - Live 0x0\n", "name 1 0 - Dead 0x0\n", "name 1 0 - Live ffff\n",
		"name 99999999999999999999 0 - Live 0x0\n", " 1 0 - Live 0x0\n", strings.Repeat("n", 56) + " 1 0 - Live 0x0\n",
		strings.Repeat("x", maxLine*3),
	} {
		modules, _, err := parseListed(t.Context(), strings.NewReader(text), nil, nil)
		require.NoError(t, err)
		require.Empty(t, modules, "%.80q", text)
	}
	var many strings.Builder
	for i := range maxNames + 1 {
		fmt.Fprintf(&many, "m%d 1 0 - Live 0x0\nm0 1 0 - Live 0x0\n", i)
	}
	modules, _, err := parseListed(t.Context(), strings.NewReader(many.String()), nil, nil)
	require.ErrorIs(t, err, errTooMany)
	require.Len(t, modules, maxNames)
}

// Lines that an earlier reading parsed are not parsed again, and changed ones are.
func TestKnownLinesOfTheListAreNotParsedAgain(t *testing.T) {
	const other = "other 4096 1 - Live 0x0\n"
	_, lines, err := parseListed(t.Context(), strings.NewReader("two\nlines 4096 0 - Live 0x0\n"+other+other), nil, nil)
	require.NoError(t, err)
	require.Len(t, lines, 2)
	marked := lines["two\nlines 4096 0 - Live 0x0"]
	marked.Version = "marked"
	lines["two\nlines 4096 0 - Live 0x0"] = marked
	modules, lines, err := parseListed(t.Context(), strings.NewReader("two\nlines 4096 0 - Live 0x0\nother 4096 2 two, Live 0x0\n"), lines, nil)
	require.NoError(t, err)
	require.Equal(t, "marked", modules[0].Version)
	require.EqualValues(t, 2, *modules[1].Refs)
	require.Equal(t, []string{"two"}, modules[1].UsedBy)
	require.Len(t, lines, 2, "only the lines of the last reading are kept")

	v := newViews(t, tree{"proc/modules": nbdLine})
	for _, list := range []string{nbdLine, nbdLine + dummyLine, dummyLine, "dummy 16384 7 - Live 0xffffffffc0020000\n"} {
		tree{"proc/modules": list}.write(t, v.root)
		modules, err := v.Listed(t.Context())
		require.NoError(t, err)
		want, _, err := parseListed(t.Context(), strings.NewReader(list), nil, nil)
		require.NoError(t, err)
		slices.SortFunc(want, func(a, b kmodquery.Module) int { return strings.Compare(a.Name, b.Name) })
		for i := range want {
			want[i].Views = []string{kmodquery.ViewModules}
		}
		require.Equal(t, want, modules)
	}
}

// Events and sysfs may have a name with the slash replaced.
func TestNamesWithASlashAreListed(t *testing.T) {
	v := newViews(t, tree{"proc/modules": "a/b 4096 0 - Live 0x0\n"})
	absent, err := v.Absent(t.Context(), []string{"a!b", "a/b", "gone/c"})
	require.NoError(t, err)
	require.Equal(t, []string{"gone/c"}, absent)

	listed := []kmodquery.Module{{Name: "a/b", Size: new(int64(1))}}
	require.Equal(t, &listed[0], again(listed, kmodquery.Module{Name: "a!b"}))
	require.Nil(t, again(listed, kmodquery.Module{Name: "a"}))
}

func kernelAddress(a uint64) *int64 { return new(int64(a)) }

func namesOf(modules []kmodquery.Module) []string {
	var names []string
	for _, m := range modules {
		names = append(names, m.Name)
	}
	return names
}

// The name of a listed module does not list another one that hides.
func TestAMultilineNameListsNoHiddenModule(t *testing.T) {
	const line, rest, live = "x 1 0 - Live 0x1", " 16384 0 - Live 0xffffffffc0000000 (OE)\n", " 4096 0 - Live 0x0\n"
	for _, test := range []struct {
		name, list string
		names      []string
		want       []string
	}{
		{"one line", line + "\ny" + rest + "last" + live, []string{line + "\ny"}, []string{line + "\ny", "last"}},
		{"two lines", line + "\n" + line + "\ny" + rest + "last" + live, []string{line + "\n" + line + "\ny"}, []string{line + "\n" + line + "\ny", "last"}},
		{"beside a line of the same text", line + "\n" + line + "\ny" + rest, []string{line + "\ny"}, []string{"x", line + "\ny"}},
		{"before a line of the same text", line + "\ny" + rest + line + "\n", []string{line + "\ny"}, []string{line + "\ny", "x"}},
		{"it is not listed", line + "\nlast" + live, []string{line + "\ny"}, []string{"x", "last"}},
		{"it is not listed, and the line is the last one", "first" + live + line + "\n", []string{line + "\ny"}, []string{"first", "x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			modules, _, err := parseListed(t.Context(), strings.NewReader(test.list), nil, test.names)
			require.NoError(t, err)
			require.Equal(t, test.want, namesOf(modules))
		})
	}

	v := newViews(t, tree{
		"proc/modules":                         line + "\ny" + rest,
		"sys/module/x/initstate":               "live\n",
		"sys/module/" + line + "\ny/initstate": "live\n",
	})
	for range 2 {
		modules, err := v.Listed(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"x", line + "\ny"}, namesOf(modules))
		require.True(t, modules[0].IsHidden())
		require.False(t, modules[1].IsHidden())
		modules, err = v.Modules(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"x", line + "\ny"}, namesOf(modules))
		require.True(t, modules[0].IsHidden())
	}
	absent, err := v.Absent(t.Context(), []string{"x"})
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, absent)
}
