package tables

import (
	"context"
	"strconv"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// kernelModuleSensors is the table of the sources' own health.
func kernelModuleSensors(c Config) definition {
	definitions := make([]table.ColumnDefinition, len(sensorColumns))
	for i, column := range sensorColumns {
		definitions[i] = column.ColumnDefinition
	}
	return definition{
		name: "kernel_module_sensors",
		description: "Health of the recorder: one row for each source of events, with what it watches, what it lost " +
			"and what to do where it cannot work",
		examples: []string{
			"SELECT source, state, reason FROM kernel_module_sensors WHERE state != 'active'",
			"SELECT source, received, lost, last_event_time FROM kernel_module_sensors WHERE lost > 0",
			"SELECT DISTINCT store_reason, store_errors FROM kernel_module_sensors WHERE store_reason IS NOT NULL",
		},
		columns: definitions,
		generate: func(ctx context.Context, q query) ([]map[string]string, error) {
			return generateSensors(ctx, c, q)
		},
	}
}

// A health is what one row shows.
type health struct {
	kmodquery.Sensor
	kmodquery.StoreStatus
	kernel string
}

// A sensorColumn is one column of the table. Its value is a text, in which ""
// is NULL, or an int64.
type sensorColumn struct {
	table.ColumnDefinition
	value func(*health) any
}

var sensorColumns = []sensorColumn{
	{text("source", local, "Name of the source, as in kernel_module_events"),
		func(h *health) any { return h.Source }},
	{text("state", local, "active (watching), standby (able to, not needed now), unavailable (this host cannot) or failed (it should work and does not)"),
		func(h *health) any { return h.State }},
	{text("reason", local, "Why the source is not active and what to do about it; of one that is, why it last was not"),
		func(h *health) any { return h.Reason }},
	{number("since", local, "When the state last changed, as Unix time in seconds"),
		func(h *health) any { return known(h.Since) }},
	{text("hooks", local, "JSON array of what is attached to the kernel, each with its kind"),
		func(h *health) any { return h.Hooks }},
	{number("received", local, "Records taken from the kernel"),
		func(h *health) any { return h.Received }},
	{number("lost", local, "Records that the kernel could not hand over"),
		func(h *health) any { return h.Lost }},
	{number("decode_errors", local, "Records that could not be read and are no events"),
		func(h *health) any { return h.DecodeErrors }},
	{number("enrich_errors", local, "Events stored with something in their column missing"),
		func(h *health) any { return h.EnrichErrors }},
	{number("store_errors", local, "Batches of events, of all sources, that could not be written to the store; NULL in a reader, which does not know"),
		func(h *health) any {
			if h.Role == kmodquery.RoleReader {
				return ""
			}
			return h.Errors
		}},
	{text("store_reason", local, "What is wrong with the store and what to do about it: why it takes no events and how many wait in memory, "+
		"that rows or the whole of it were damaged"),
		func(h *health) any {
			if h.StoreReason != "" && h.Trouble != "" {
				return h.StoreReason + ". " + h.Trouble
			}
			return h.StoreReason + h.Trouble
		}},
	{number("shed", local, "Events of the source that were given up because the store took none and memory for them was full"),
		func(h *health) any { return h.Shed }},
	{number("damaged_rows", local, "Rows that this process read from the store and did not show, because they are not what was written"),
		func(h *health) any { return h.Damaged }},
	{number("denied", local, "Denied attempts that were counted in another attempt's row"),
		func(h *health) any { return h.Denied }},
	{number("joined", local, "Events that were given the load_id under which a better source saw the same attempt"),
		func(h *health) any { return h.Joined }},
	{number("last_event_time", local, "When the last event came, as Unix time in seconds"),
		func(h *health) any { return known(h.LastEventTime) }},
	{number("gap_start", local, "Begin, as Unix time in seconds, of the last time in this boot in which the source did not watch before it did: since the boot, or since "+
		"the last sign that an earlier process watched. Its loads are told as far as the kernel's log and the views show them. NULL where there was none"),
		func(h *health) any { return known(h.GapStart) }},
	{number("gap_end", local, "End of that time, as Unix time in seconds"),
		func(h *health) any { return known(h.GapEnd) }},
	{text("role", local, "recorder if this process writes the store, reader if another one does"),
		func(h *health) any { return h.Role }},
	{text("store_path", local, "Path of the event store"),
		func(h *health) any { return h.Path }},
	{number("store_rows", local, "Events in the store"),
		func(h *health) any { return h.Rows }},
	{number("store_bytes", local, "Size of the store on disk in bytes"),
		func(h *health) any { return h.Bytes }},
	{number("oldest_time", local, "Time of the oldest event in the store, as Unix time in seconds"),
		func(h *health) any { return known(h.OldestTime) }},
	{text("kernel", local, "Release of the running kernel"),
		func(h *health) any { return h.kernel }},
	{text("version", local, "Version of kmodquery"),
		func(*health) any { return kmodquery.Version }},
}

// known is a Unix time, or NULL for one that never was.
func known(seconds int64) any {
	if seconds == 0 {
		return ""
	}
	return seconds
}

func generateSensors(ctx context.Context, c Config, q query) ([]map[string]string, error) {
	status, err := c.Store.Status(ctx)
	if err != nil {
		// This table tells what is wrong; it is no reason not to answer.
		status.Trouble = err.Error()
	}
	recorderCtx, cancel := SyncContext(ctx)
	defer cancel()
	var rows []map[string]string
	for i, sensor := range c.Recorder.Sensors(recorderCtx) {
		row := map[string]string{}
		for _, column := range sensorColumns {
			if !q.uses(column.Name) {
				continue
			}
			switch value := column.value(&health{sensor, status, c.Kernel}).(type) {
			case int64:
				row[column.Name] = strconv.FormatInt(value, 10)
			case string:
				if value != "" {
					// Reasons quote what the host chose; a second escape would garble it.
					row[column.Name] = kmodquery.Printable(value)
				}
			}
		}
		if !q.usesNothing() {
			row[rowidKey] = strconv.Itoa(i + 1)
		}
		rows = append(rows, row)
	}
	return rows, nil
}
