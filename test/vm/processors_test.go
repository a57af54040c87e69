//go:build linux

package vm

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLongestGuestsStartFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pool{free: 2, size: 2}
		var started []string
		start := func(name string, processors int, limit time.Duration) {
			go func() {
				giveBack := p.take(processors, limit)
				started = append(started, name)
				time.Sleep(limit)
				giveBack()
			}()
			synctest.Wait()
		}
		start("first", 1, time.Minute)
		start("second", 1, time.Hour)
		start("short", 1, time.Minute)
		start("long", 2, time.Hour)
		start("more than there are", 3, 3*time.Hour)
		start("as long as the other", 2, time.Hour)
		require.Equal(t, []string{"first", "second"}, started)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.Equal(t, []string{"first", "second", "more than there are", "long", "as long as the other", "short"}, started)
		require.Equal(t, p.size, p.free)
	})
}
