package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// minFree is how many bytes the store should have room for.
const minFree = 256 << 20

// Store checks the state folder, without opening the store.
func Store(dir string) []Result {
	found, err := sqlite.Inspect(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return one(Note, dir+" does not exist; the first recorder makes it", "")
	case errors.Is(err, fs.ErrPermission):
		return one(Unknown, err.Error(), "run doctor as root")
	case err != nil:
		return one(Critical, err.Error(), "")
	case found.Schema > found.Newest:
		return one(Critical, fmt.Sprintf("a newer version made %s (schema %d; this one has %d)", found.Path, found.Schema, found.Newest), "upgrade kmodquery, or move the store away")
	case found.Free >= 0 && found.Free < minFree:
		return one(Warning, fmt.Sprintf("the file system of %s has %s left", dir, size(found.Free)), "make room, or set a smaller retention-events")
	case found.Damaged > 0:
		return one(Warning, fmt.Sprintf("%d damaged databases were set aside in %s", found.Damaged, dir), "keep them as evidence or delete them")
	case found.Bytes == 0:
		return one(Note, found.Path+" does not exist; the first recorder makes it", "")
	}
	room := "how much room it has is not known"
	if found.Free >= 0 {
		room = size(found.Free) + " are left"
	}
	return one(OK, fmt.Sprintf("%s has %s; %s", found.Path, size(found.Bytes), room), "")
}

func size(bytes int64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GiB", bytes>>30)
	case bytes >= 10<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}

// RecorderName is the name of the result that says who records.
const RecorderName = "recorder"

// NoRecorder is the result if no process answers on the recorder's socket, for the error of
// the connection.
func NoRecorder(stateDir string, err error) []Result {
	if errors.Is(err, fs.ErrPermission) {
		return []Result{{RecorderName, Unknown, "this process may not ask who records: " + err.Error(), "run doctor as root"}}
	}
	if pid, found := holderOf(filepath.Join(stateDir, "lock")); found {
		return []Result{{RecorderName, Critical, fmt.Sprintf("process %d holds the lock of %s and does not answer: %v", pid, stateDir, err), fmt.Sprintf("see what it waits for, or end it: kill %d", pid)}}
	}
	return []Result{{RecorderName, Critical, "no process records into " + stateDir, "start the service: systemctl enable --now kmodquery, or let osqueryd start the extension"}}
}

// Sensors turns the sensors of the recorder into results: one that says whether any source
// watches, and one for each source. views is the source that always runs beside the others.
func Sensors(sensors []kmodquery.Sensor, views string) (results []Result) {
	var watching []string
	isStarting := false
	for _, s := range sensors {
		if s.State == kmodquery.StateActive && s.Source != views {
			watching = append(watching, s.Source)
		}
		isStarting = isStarting || s.State == kmodquery.StateStandby && s.Source != views
	}
	if len(watching) == 0 && isStarting {
		results = append(results, Result{"watching", Unknown, "no source watches yet, and some may be starting", "run doctor again in a minute"})
	} else if len(watching) == 0 {
		results = append(results, Result{"watching", Critical, "no source watches, so loads are found only where the kernel still shows them", "see the reasons of the sensors"})
	} else {
		results = append(results, Result{"watching", OK, strings.Join(watching, ", ") + " " + map[bool]string{true: "watches", false: "watch"}[len(watching) == 1], ""})
	}
	store := Result{"store_health", OK, "the store accepts events", ""}
	for _, s := range sensors {
		r := Result{Name: "sensor " + s.Source, Status: OK, Reason: s.State}
		if s.Reason != "" {
			r.Reason += ": " + s.Reason
		}
		switch {
		case s.State == kmodquery.StateFailed:
			r.Status = Warning
		case s.State == kmodquery.StateUnavailable:
			r.Status = Note
		case s.State == kmodquery.StateActive && s.Filtered > 0:
			r.Status, r.Remedy = Critical, "look at the events sensor_tampered"
			r.Reason += fmt.Sprintf("; %d records were filtered by code in the kernel", s.Filtered)
		case s.Lost > 0 || s.DecodeErrors > 0 || s.Shed > 0:
			r.Status, r.Remedy = Warning, "see docs/limits.md for what was lost"
			r.Reason += fmt.Sprintf("; %d records lost, %d not decoded, %d shed", s.Lost, s.DecodeErrors, s.Shed)
		}
		if s.StoreReason != "" {
			store.Status, store.Reason = Critical, s.StoreReason
		}
		results = append(results, r)
	}
	return append(results, store)
}

// Registered is the result of asking osquery for the extension: the names of the extensions
// that are registered, and the error of a query of one of its tables.
func Registered(socket string, names []string, answer error) []Result {
	for _, name := range names {
		if name != "kmodquery" {
			continue
		}
		if answer != nil {
			return one(Critical, "osquery lists the extension, and its tables do not answer: "+answer.Error(), "see what the recorder waits for in its log, or restart osqueryd")
		}
		return one(OK, "osquery lists the extension at "+socket+", and its tables answer", "")
	}
	return one(Critical, "osquery at "+socket+" does not list the extension", "see osquery's log for \"Will not autoload\"; the autoload file and the binary are checked here too")
}
