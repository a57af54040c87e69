package host

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestStampAtSubtractsFromTheUptime(t *testing.T) {
	now := time.Unix(1_000_000, 5)
	boot := Boot{ID: "7B1F", Uptime: time.Hour}
	e := boot.StampAt(now.Add(-90*time.Second), now)
	require.Equal(t, kmodquery.Event{
		Time: 999_910, TimeNanos: 999_910_000_000_005, BootID: "7B1F", Uptime: new(int64(3510)),
	}, e)

	require.Nil(t, boot.StampAt(now.Add(-2*time.Hour), now).Uptime, "the time is before the boot")
	require.Nil(t, Boot{}.StampAt(now, now).Uptime, "the uptime is unknown")
}
