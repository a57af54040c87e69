//go:build linux

package audit

import (
	"fmt"

	"github.com/kmodquery/kmodquery/linux/audit/record"
)

// An auditPosition is how far the source has come in the daemon's log: an event
// that was told, and where to go on.
type auditPosition struct {
	id     fileID    // of the file in which the event begins, when it was read
	offset int64     // at which it begins
	told   record.ID // the event
	after  int       // how many files later to go on
	next   int64     // at which offset
}

// positionForm has a version, so that another form can follow.
const positionForm = "1 %d %d %d %d %d %d %d"

func (p auditPosition) String() string {
	return fmt.Sprintf(positionForm, p.id.device, p.id.inode, p.offset, p.told.Millis, p.told.Serial, p.after, p.next)
}

// parseAuditPosition reads a position. It is not ok where there is none that
// could be used.
func parseAuditPosition(text string) (p auditPosition, ok bool) {
	n, err := fmt.Sscanf(text, positionForm, &p.id.device, &p.id.inode, &p.offset, &p.told.Millis, &p.told.Serial, &p.after, &p.next)
	return p, err == nil && n == 7 && p.offset >= 0 && p.after >= 0 && p.next >= 0
}
