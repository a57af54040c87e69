//go:build linux

package bpf

import (
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A perfEventLink is a kprobe as it is before Linux 5.15, whose descriptor cannot
// be duplicated.
type perfEventLink struct {
	link.Link
	err error
}

func (perfEventLink) Info() (*link.Info, error)      { return nil, link.ErrNotSupported }
func (l perfEventLink) PerfEvent() (*os.File, error) { return nil, fmt.Errorf("duplicate: %w", l.err) }

// Whose descriptor cannot be looked at is not taken to be gone.
func TestAttachedIsThereWhileNoFileCanBeOpened(t *testing.T) {
	for err, want := range map[error]bool{unix.EMFILE: false, unix.ENFILE: false, unix.EBADF: true} {
		a := attached{link: perfEventLink{err: err}}
		require.Equal(t, want, a.isGone(), "%v", err)
	}
}
