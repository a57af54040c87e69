package host

import (
	"time"

	"github.com/kmodquery/kmodquery"
)

// A Boot identifies one run of the kernel.
type Boot struct {
	ID     string        // kern.bootsessionuuid, which the unified log has too; "" if unknown
	Uptime time.Duration // time since the boot, including sleep; 0 if unknown
}

// Stamp returns an event with the current time, the boot ID and the uptime, and nothing
// else. The boot must have been read just now.
func (b Boot) Stamp() kmodquery.Event { return b.StampAt(time.Now(), time.Now()) }

// StampAt returns an event with the time at, the boot ID and the uptime at that time, and
// nothing else. The boot must have been read at the time now. The event has no Uptime if
// at is before the boot.
func (b Boot) StampAt(at, now time.Time) kmodquery.Event {
	e := kmodquery.Event{Time: at.Unix(), TimeNanos: at.UnixNano(), BootID: b.ID}
	if uptime := b.Uptime - now.Sub(at); b.Uptime > 0 && uptime >= 0 {
		e.Uptime = new(int64(uptime / time.Second))
	}
	return e
}
