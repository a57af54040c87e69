//go:build linux

package bpf

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// renew renews programs of a pinned set.
func (u *upgradable) renew(p *Programs) *Programs {
	u.t.Helper()
	next := &Programs{found: true}
	u.t.Cleanup(func() { next.Close() })
	require.NoError(u.t, p.renew(u.t.Context(), Options{PinDir: u.path}, next, u.choice()))
	require.NoError(u.t, next.Unpinned())
	return next
}

func TestRenewedProgramsReadWhatWasRecorded(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	u := newUpgradable(t)
	first := u.open("one", Options{})
	request := runner(t, first, "raw_tp_module_request")
	request()
	request()
	raw, read, err := first.Read()
	require.NoError(t, err)
	_, err = first.Decode(raw, read)
	require.NoError(t, err)
	const other = Kind(recordKinds - 1)
	first.arrivals.counts[0].sent[other].Store(3)
	first.arrivals.see(0, int(other), 3)
	first.filtered, first.arrivals.holes = []Filtered{hole(0, other, 1, 1)}, []Filtered{hole(0, other, 2, 2)}
	require.True(t, first.HasHoles())
	first.Release(read, Position{}, Position{})
	*first.settings, first.wanted.ImageLimit = moduleReaderSettings{}, 7
	first.Restore()
	require.EqualValues(t, 7, first.settings.ImageLimit)
	programs := first.attached

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = first.Renew(ctx, Options{PinDir: u.path})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, first.Check(), "they are in use as before")

	second := u.renew(first)
	require.True(t, second.WereThere())
	require.True(t, second.AreNew(), "they know no earlier request")
	require.Equal(t, second.name.id, first.owners.current.Load())
	require.Empty(t, first.attached)
	require.True(t, programs[0].isGone())
	require.False(t, first.pins.isAttached(first.name))
	require.NoError(t, second.Inherit(first))
	require.NoError(t, second.Check())
	second.SetDeadline(time.Now().Add(2 * afterRetirement))
	owns := 0
	for {
		raw, at, err := second.Read()
		if err != nil {
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			break
		}
		_, err = second.Decode(raw, at)
		require.NoError(t, err)
		if at.Set == first.name.id {
			owns++
			require.Greater(t, at.Offset, read.Offset)
		}
	}
	require.Positive(t, owns, "what was released is not read again, and the rest is")
	require.Equal(t, []Filtered{hole(0, other, 1, 1), hole(0, other, 2, 2)}, second.Filtered(), "what was not reported yet")
	second.Release(Position{}, Position{}, Position{})
	require.Equal(t, []uint64{second.name.id}, u.sets())

	// The next process continues.
	require.NoError(t, second.Close())
	third := u.open(build, Options{})
	require.Equal(t, second.name, third.name)
	require.False(t, third.AreNew())
	require.NoError(t, third.Close())
}

func TestProgramsThatAreNotPinnedAreRenewed(t *testing.T) {
	u := newUpgradable(t)
	renew := func(p *Programs) *Programs {
		next := &Programs{}
		require.NoError(t, p.renew(t.Context(), Options{}, next, u.choice()))
		require.NoError(t, next.Inherit(p))
		return next
	}
	first := &Programs{}
	require.NoError(t, first.openSet(t.Context(), Options{}, u.choice()))
	second := renew(first)
	require.Len(t, second.older, 1)
	require.NoError(t, second.Check())
	require.False(t, second.IsPinned())
	require.NoDirExists(t, u.path)
	third := renew(second)
	require.Len(t, third.older, 2)
	require.Less(t, third.older[0].name.id, third.older[1].name.id)
	for len(third.older) < maxOlder {
		third.older = append(third.older, &olderSet{})
	}
	_, err := third.Renew(t.Context(), Options{})
	require.EqualError(t, err, "attach the hooks again: the records of 4 earlier sets of hooks are not stored yet")
	third.older = third.older[:2]
	drain(t, third)
	require.Empty(t, third.older)
	fourth := renew(third)
	lost, err := fourth.Lost()
	require.NoError(t, err)
	require.Len(t, lost, 2, "sets that are gone take no memory")
	require.Len(t, fourth.Shed(), 2)
	require.NoError(t, fourth.Close())
}

// Whatever of the pins is removed, the programs run and are pinned again.
func TestRemovedPinsAreMadeAgain(t *testing.T) {
	u := newUpgradable(t)
	p := u.open("one", Options{})
	require.NoError(t, p.Check())
	program := p.attached[0].program
	for _, removed := range []string{"", p.name.String(), p.name.String() + "/" + pinnedMaps + "/" + moduleMapRecords,
		p.name.String() + "/" + pinnedLinks + "/" + program, p.name.String() + "/" + pinnedPrograms, ""} {
		require.NoError(t, os.RemoveAll(u.path+"/"+removed))
		require.ErrorIs(t, p.Check(), ErrUnpinned)
		require.NoError(t, p.Repin())
		require.NoError(t, p.Check())
		require.Equal(t, []uint64{p.name.id}, u.sets())
		_, err := openPins(u.path)
		require.ErrorIs(t, err, ErrPinsBusy)
	}
	require.NoError(t, p.Close())
	again := u.open("one", Options{})
	require.Equal(t, p.name, again.name)
	require.True(t, again.WereThere())

	// Nothing can be pinned at the path.
	require.NoError(t, os.RemoveAll(u.path))
	require.NoError(t, os.Symlink("/tmp", u.path))
	require.Error(t, again.Repin())
	_, err := again.Renew(t.Context(), Options{PinDir: u.path})
	require.Error(t, err)
	require.Equal(t, again.name.id, again.owners.current.Load())
	require.NotEmpty(t, again.attached)
	require.NoError(t, os.Remove(u.path))
	next := u.renew(again)
	require.NoError(t, next.Inherit(again))
	require.NoError(t, next.Check())
	require.NoError(t, next.Close())
}
