//go:build linux

package vm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

func TestResultsReader(t *testing.T) {
	for name, test := range map[string]struct {
		sent  string
		want  string
		code  int
		ended bool
	}{
		"nothing":              {sent: "", want: ""},
		"ready and no more":    {sent: guest.ReadyLine, want: ""},
		"a program's output":   {sent: guest.ReadyLine + "a\n\nb\n\n" + guest.ExitPrefix + "0\n", want: "a\n\nb\n", ended: true},
		"an unfinished line":   {sent: guest.ReadyLine + "a\n" + guest.ExitPrefix + "3\n", want: "a\n", code: 3, ended: true},
		"two programs":         {sent: guest.ReadyLine + "a\n" + guest.NextLine + "b\n\n" + guest.ExitPrefix + "1\n", want: "a\n" + guest.NextLine + "b\n", code: 1, ended: true},
		"a VM that stopped":    {sent: guest.ReadyLine + "a\nhal", want: "a\nhal"},
		"a damaged exit line":  {sent: guest.ReadyLine + "a\n\n" + guest.ExitPrefix + "x\n", want: "a\n"},
		"a second ready line":  {sent: guest.ReadyLine + guest.ReadyLine + "\n" + guest.ExitPrefix + "0\n", want: guest.ReadyLine, ended: true},
		"output without ready": {sent: "early\n", want: "early\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var output bytes.Buffer
			r := newResultsReader(&output)
			for i := range len(test.sent) {
				_, err := r.Write([]byte{test.sent[i]})
				require.NoError(t, err)
			}
			code, ended, err := r.close()
			require.NoError(t, err)
			require.Equal(t, test.want, output.String())
			require.Equal(t, test.code, code)
			require.Equal(t, test.ended, ended)
		})
	}
}

func TestResultsReaderReportsItsOutputsError(t *testing.T) {
	full := errors.New("full")
	r := newResultsReader(failing{full})
	_, err := r.Write([]byte("line\n"))
	require.ErrorIs(t, err, full)
}

// failing is a writer that always returns its error.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
