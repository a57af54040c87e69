package views

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseKallsyms(t *testing.T) {
	var visited []string
	mentions, forged, err := parseKallsyms(t.Context(), strings.NewReader(
		"ffffffff81000000 T _text\n"+
			"ffffffff81000010 t [odd]\n"+
			"ffffffffc02c7024 r _note_7\t[dummy]\n"+
			"ffffffffc02c6000 t dummy_xmit\t[dummy]\n"+
			"0000000000000000 t hidden_address\t[nbd]\n"+
			"ffffffffc0300000 t bpf_prog_6deef7357e7b4530\t[bpf]\n"+
			"ffffffffc0400000 t ftrace_trampoline\t[__builtin__ftrace]\n"+
			"ffffffffc02c6010 t dummy_init\t[dummy]\n"+
			"ffffffffc0500000 t odd\t[a ]b]\n"+
			"garbage\t[x]\n"+
			"ffffffffc0500000 t symbol\t[nbd]\t[evil]\n"+
			"ffffffffc0500000 t symbol\t["+strings.Repeat("s", 60)+"\t[short]\n"+
			"ffffffffc0500000 t none\t[]\n"+
			"ffffffffc0500000 t long\t["+strings.Repeat("n", 56)+"]\n"),
		func(name string, address uint64) { visited = append(visited, fmt.Sprintf("%s %x", name, address)) })
	require.NoError(t, err)
	require.Equal(t, map[string]*mention{
		"dummy": {"dummy", 0xffffffffc02c6000}, "nbd": {"nbd", 0}, "a ]b": {"a ]b", 0xffffffffc0500000},
		"nbd]\t[evil": {"nbd]\t[evil", 0xffffffffc0500000}, "short": {"short", 0xffffffffc0500000},
	}, mentions)
	require.Equal(t, forgery{line: "ffffffff81000010 t [odd]"}, forged)
	require.Equal(t, []string{
		"dummy ffffffffc02c7024", "dummy ffffffffc02c6000", " ffffffffc0300000", " ffffffffc0400000", "dummy ffffffffc02c6010",
		"a ]b ffffffffc0500000", "nbd]\t[evil ffffffffc0500000", "short ffffffffc0500000", " ffffffffc0500000",
	}, visited, "addresses of generated code have no name")
}

func TestIsSymbol(t *testing.T) {
	for line, want := range map[string]bool{
		"ffffffff81000000 T _text":                true,
		"0000000000000000 A fixed_percpu_data":    true,
		"ffffffffc0500000 ? _RNvCs1_3foo.llvm.12": true,
		"ffffffffc0500000 t a\t[a b]":             true,
		"ffffffffc0500000 t a\t[x\t[y]":           true,
		"ffffffffc0500000 t [odd]":                true,
		"":                                        false,
		"b [ghost]":                               false,
		"ffffffffc0500000 t ":                     false,
		"ffffffffc0500000 tt a":                   false,
		"FFFFFFFFC0500000 t a":                    false,
		"ffffffffc0500000 t a b":                  false,
		"ffffffffc0500000 t a [ghost\t[b]":        false,
		"ffffffffc0500000 t a\t[two":              false,
		"ffffffffc0500000 t a\tb":                 false,
		"ffffffffc0500000 t \t[b]":                false,
		"0xffffffffc0100000-0xffffffffc0102000    8192 load_module+0x1/0x2": false,
	} {
		require.Equal(t, want, isSymbol([]byte(line)), "%q", line)
	}
}

func TestParseFunctions(t *testing.T) {
	nothing := func(string, uint64) {}
	mentions, err := parseFunctions(t.Context(), strings.NewReader("schedule\n__ftrace_invalid_address___16\ninit_module [ghost]\nx [ghost]\n"), false, nothing)
	require.NoError(t, err)
	require.Equal(t, map[string]*mention{"ghost": {"ghost", 0}}, mentions)
	mentions, err = parseFunctions(t.Context(), strings.NewReader("ffffffff81000000 schedule\nffffffffc0000004 init_module [ghost]\nffffffffc0000005 x [bpf]\n"), true,
		func(name string, _ uint64) { require.Equal(t, "ghost", name) })
	require.NoError(t, err)
	require.Equal(t, map[string]*mention{"ghost": {"ghost", 0xffffffffc0000004}}, mentions)
}

func TestParseMentionsIsBounded(t *testing.T) {
	var text strings.Builder
	for i := range maxNames + 1 {
		fmt.Fprintf(&text, "f [m%d]\n", i)
	}
	mentions, err := parseFunctions(t.Context(), strings.NewReader(text.String()), false, func(string, uint64) {})
	require.ErrorIs(t, err, errTooMany)
	require.Len(t, mentions, maxNames)
}
