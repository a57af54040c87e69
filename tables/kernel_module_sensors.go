package tables

import (
	"context"
	"slices"

	"github.com/kmodquery/kmodquery"
)

// kernelModuleSensors is the table of the sources' health.
var kernelModuleSensors = definition[health]{
	name: "kernel_module_sensors",
	description: "Health of the recorder: one row for each source of events, with its hooks, its losses and, if it does not " +
		"work, what to do about it",
	examples: []string{
		"SELECT source, state, reason FROM kernel_module_sensors WHERE state = 'failed' OR (state = 'unavailable' AND " +
			"(source NOT IN ('audit', 'journal', 'kmsg', 'syslog') OR " +
			"NOT EXISTS (SELECT 1 FROM kernel_module_sensors WHERE state = 'active' AND source <> 'procfs')))",
		"SELECT source, received, lost, filtered, decode_errors, shed FROM kernel_module_sensors WHERE lost > 0 OR filtered > 0 OR decode_errors > 0 OR shed > 0",
		"SELECT DISTINCT store_reason, store_errors, expired_unread FROM kernel_module_sensors WHERE coalesce(store_reason, '') <> '' " +
			"OR store_errors > 0 OR expired_unread > 0",
	},
	columns:  sensorColumns,
	generate: generateSensors,
}

// A health is the content of one row.
type health struct {
	kmodquery.Sensor
	kmodquery.StoreStatus
	rules  kmodquery.RuleStatus
	kernel string
}

var sensorColumns = []columnOf[health]{
	text("source", local, "Name of the source, as in kernel_module_events",
		func(h *health) string { return kmodquery.Printable(h.Source) }),
	text("state", local, "active (watching), standby (able to watch, and not needed or still starting), unavailable (this host cannot run it) or failed (it should work and does not)",
		func(h *health) string { return kmodquery.Printable(h.State) }),
	text("reason", local, "Why the source is not active, or for an active source why it last was not, and what to do about it",
		func(h *health) string { return kmodquery.Printable(h.Reason) }),
	number("since", local, "Unix time in seconds of the last change of state",
		func(h *health) *int64 { return known(&h.Since) }),
	text("hooks", local, "JSON array of the hooks attached to the kernel, each with its kind",
		func(h *health) string { return kmodquery.Printable(h.Hooks) }),
	number("received", local, "Records taken from the kernel",
		func(h *health) *int64 { return &h.Received }),
	number("lost", local, "Records that were lost before the source could read them, such as those for which a buffer had no room, and returns of system calls that the eBPF programs missed. "+
		"Counted since the recorder started, or, for pinned hooks of eBPF, since they were attached: a restart keeps their number, a reboot or detach sets it to zero",
		func(h *health) *int64 { return &h.Lost }),
	number("filtered", local, "Records that the hooks of eBPF sent, that had room, and that did not arrive: code in the kernel keeps them from the recorder. "+
		"Each such incident is an event sensor_tampered. Counted since the recorder started",
		func(h *health) *int64 { return &h.Filtered }),
	number("decode_errors", local, "Records that could not be decoded and became no events",
		func(h *health) *int64 { return &h.DecodeErrors }),
	number("enrich_errors", local, "Events whose column missing is not empty",
		func(h *health) *int64 { return &h.EnrichErrors }),
	number("store_errors", local, "Batches of events, of all sources, that could not be written to the store; NULL in a reader",
		func(h *health) *int64 {
			if h.Role == kmodquery.RoleReader {
				return nil
			}
			return &h.Errors
		}),
	text("store_reason", local, "Defects of the store and what to do about them: why it accepts no events and how many wait in memory, "+
		"and whether rows or the whole store were damaged, deleted or changed",
		func(h *health) string {
			if h.StoreReason != "" && h.Trouble != "" {
				return kmodquery.Printable(h.StoreReason + ". " + h.Trouble)
			}
			return kmodquery.Printable(h.StoreReason + h.Trouble)
		}),
	number("shed", local, "Records and events that were dropped to keep room for others. eBPF drops records that any user can cause, such as module requests, "+
		"while its ring buffer is more than half full; they are counted from the same moment as lost. Events are dropped when the store accepts none and the memory for them is full",
		func(h *health) *int64 { return &h.Shed }),
	number("damaged_rows", local, "Rows that this process read and did not show because they do not match their checksums",
		func(h *health) *int64 { return &h.Damaged }),
	number("denied", local, "Denied attempts that are counted in another attempt's row",
		func(h *health) *int64 { return &h.Denied }),
	number("joined", local, "Events that received the load_id under which a better source reported the same attempt",
		func(h *health) *int64 { return &h.Joined }),
	number("last_event_time", local, "Unix time in seconds of the last event",
		func(h *health) *int64 { return known(&h.LastEventTime) }),
	number("gap_start", local, "Unix time in seconds of the start of the last period in this boot in which the source did not watch: the boot, or the last time at "+
		"which an earlier process is known to have watched. Loads in that period are reported as far as the kernel's log and the views show them. NULL if there is none",
		func(h *health) *int64 { return known(&h.GapStart) }),
	number("gap_end", local, "Unix time in seconds of the end of that period",
		func(h *health) *int64 { return known(&h.GapEnd) }),
	text("role", local, "recorder if this process writes the store, reader if another process does",
		func(h *health) string { return kmodquery.Printable(h.Role) }),
	text("store_path", local, "Path of the event store",
		func(h *health) string { return kmodquery.Printable(h.Path) }),
	number("store_rows", local, "Rows in the store: events, and the rows of kernel_module_loads", func(h *health) *int64 { return &h.Rows }),
	number("store_bytes", local, "Size of the store on disk in bytes",
		func(h *health) *int64 { return &h.Bytes }),
	number("recorded_rows", local, "Rows that the recorder stored and that have not expired, without the unprivileged ones. It counts them when it stores and "+
		"expires them, so a row that somebody else deletes stays counted",
		func(h *health) *int64 { return h.Totals.Rows }),
	text("recorded_sum", local, "Sum of the HMACs of these rows with an eid above sums_after, modulo 2^256, in hex. It does not depend on their order",
		func(h *health) string { return h.Totals.Sum }),
	number("recorded_unprivileged_rows", local, "The same number of the unprivileged rows",
		func(h *health) *int64 { return h.Totals.UnprivilegedRows }),
	text("recorded_unprivileged_sum", local, "The same sum of the unprivileged rows",
		func(h *health) string { return h.Totals.UnprivilegedSum }),
	number("sums_after", local, "Rows up to this eid are not in the sums, because an earlier version stored them, or because the key or the totals were lost or changed since",
		func(h *health) *int64 { return h.Totals.SumsAfter }),
	number("first_eid", local, "eid of the first row in the store. It grows when rows expire by age",
		func(h *health) *int64 { return known(&h.FirstEID) }),
	number("last_eid", local, "eid of the last row that was stored",
		func(h *health) *int64 { return h.Totals.LastEID }),
	number("oldest_time", local, "Unix time in seconds of the oldest event in the store",
		func(h *health) *int64 { return known(&h.OldestTime) }),
	number("expired_unread", local, "Events that expired before a cursor gave them", func(h *health) *int64 { return &h.Skipped }),
	number("rules", local, "Rules of this host's own that are in force in this process (docs/rules.md)", func(h *health) *int64 { return &h.rules.Rules }),
	text("rules_hash", local, "SHA-256 of the names and the contents of their files; NULL without rules", func(h *health) string { return h.rules.RulesHash }),
	number("expectations", local, "Entries of expectations that are in force in this process", func(h *health) *int64 { return &h.rules.Expectations }),
	text("expectations_hash", local, "SHA-256 of the names and the contents of their files; NULL without expectations", func(h *health) string { return h.rules.ExpectationsHash }),
	number("rule_errors", local, "Evaluations of these rules that failed, which are no match, since the rules were read", func(h *health) *int64 { return &h.rules.Errors }),
	text("rules_reason", local, "What is wrong with the files of rules and expectations, with the file and the line, and which rules failed on which loads", func(h *health) string {
		return kmodquery.Printable(h.rules.Reason)
	}),
	text("kernel", local, "Release of the running kernel",
		func(h *health) string { return kmodquery.Printable(h.kernel) }),
	text("version", local, "Version of kmodquery", func(*health) string { return kmodquery.Version }),
}

// sizeColumns are unknown while the store cannot be read.
var sizeColumns = []string{"store_rows", "store_bytes", "expired_unread"}

func generateSensors(ctx context.Context, c Config, q query) ([]map[string]string, error) {
	storeCtx, cancelStore := SyncContext(ctx)
	defer cancelStore()
	status, err := c.Store.Status(storeCtx)
	if err != nil {
		// The table answers without the store, because it reports the store's defects.
		status.Trouble = err.Error()
	}
	recorderCtx, cancelRecorder := SyncContext(ctx)
	defer cancelRecorder()
	columns := used(q, sensorColumns)
	if err != nil {
		columns = slices.DeleteFunc(columns, func(c columnOf[health]) bool { return slices.Contains(sizeColumns, c.Name) })
	}
	row := rowFunc(columns)
	var rules kmodquery.RuleStatus
	if c.Rules != nil {
		rules = c.Rules().Status
	}
	var rows []map[string]string
	for i, sensor := range c.Recorder.Sensors(recorderCtx) {
		rows = append(rows, row(&health{sensor, status, rules, c.Kernel}, int64(i+1)))
	}
	return rows, nil
}
