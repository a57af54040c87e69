package cmdout

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHead(t *testing.T) {
	h := NewHead(5, nil)
	require.Empty(t, h.String())
	require.Empty(t, h.Said())
	for _, text := range []string{"a\n", "", "b\tc"} {
		n, err := h.Write([]byte(text))
		require.NoError(t, err)
		require.Len(t, text, n)
	}
	require.Equal(t, "a\nb\tc", h.String())
	require.False(t, h.IsCut())
	n, err := h.Write([]byte("de"))
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.True(t, h.IsCut())
	require.Equal(t, "a\nb\tc", h.String())
	require.Equal(t, "a b c", h.Line())
	require.Equal(t, ": a b c", h.Said())

	full := errors.New("full")
	h = NewHead(5, full)
	n, err = h.Write([]byte("abcdefg"))
	require.ErrorIs(t, err, full)
	require.Equal(t, 5, n)
	n, err = h.Write([]byte("h"))
	require.ErrorIs(t, err, full)
	require.Zero(t, n)
	require.Equal(t, "abcde", h.String())
	require.True(t, h.IsCut())

	h = NewHead(5, nil)
	_, err = h.Write([]byte(" \n\t\n "))
	require.NoError(t, err)
	require.Empty(t, h.Said())
}

// os/exec has ways around Write.
func TestHeadOfACommand(t *testing.T) {
	const flood = "head -c 10000000 /dev/zero | tr '\\000' x; head -c 10000000 /dev/zero | tr '\\000' y >&2; echo more"
	out, errs := NewHead(1000, nil), NewHead(2000, nil)
	cmd := exec.Command("sh", "-c", flood)
	cmd.Stdout, cmd.Stderr = out, errs
	require.NoError(t, cmd.Run())
	require.Equal(t, strings.Repeat("x", 1000), out.String())
	require.Equal(t, strings.Repeat("y", 2000), errs.String())
	require.LessOrEqual(t, out.text.Cap(), 64<<10)

	full := errors.New("it prints too much")
	out = NewHead(1000, full)
	cmd = exec.Command("sh", "-c", "while echo x; do :; done")
	cmd.Stdout = out
	require.Error(t, cmd.Run(), "it is ended")
	require.Len(t, out.String(), 1000)
}
