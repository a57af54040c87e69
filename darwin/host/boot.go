package host

import (
	"time"

	"github.com/kmodquery/kmodquery"
)

// A Boot is one run of the kernel.
type Boot struct {
	ID     string        // kern.bootsessionuuid, as the unified log has it too; "" unknown
	Uptime time.Duration // since its start, sleep included; 0 unknown
}

// Stamp returns an event that says no more than the present moment of it.
func (b Boot) Stamp() kmodquery.Event { return b.StampAt(time.Now(), time.Now()) }

// StampAt is an event of a moment, for a boot that was read now.
func (b Boot) StampAt(at, now time.Time) kmodquery.Event {
	e := kmodquery.Event{Time: at.Unix(), TimeNanos: at.UnixNano(), BootID: b.ID}
	if uptime := b.Uptime - now.Sub(at); b.Uptime > 0 && uptime >= 0 {
		e.Uptime = new(int64(uptime / time.Second))
	}
	return e
}
