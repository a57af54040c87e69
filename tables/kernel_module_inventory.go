package tables

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// lookAgain is how long after the first look at a module that seems to hide the
// second one is taken.
const lookAgain = 100 * time.Millisecond

// kernelModuleInventory is the table of what is loaded now.
func kernelModuleInventory(c Config) definition {
	definitions := make([]table.ColumnDefinition, len(inventoryColumns))
	for i, column := range inventoryColumns {
		definitions[i] = column.ColumnDefinition
	}
	return definition{
		name: "kernel_module_inventory",
		description: "Kernel modules that are loaded now: one row for each that any view of the kernel shows, joined with what the " +
			"events say of it. A module that hides is one that the kernel's own list lacks. On macOS also the kernel extensions " +
			"that it remembers to have loaded before (state Gone)",
		examples: []string{
			"SELECT name, size, address, views FROM kernel_module_inventory WHERE hidden = 1",
			"SELECT name, path, sha256, signer, package, missing FROM kernel_module_inventory WHERE package IS NULL",
		},
		columns: definitions,
		generate: func(ctx context.Context, q query) ([]map[string]string, error) {
			return generateInventory(ctx, c, q)
		},
	}
}

// An entry is what one row shows.
type entry struct {
	kmodquery.Module
	file kmodquery.ModuleFile
}

// An inventoryColumn is one column of the table. Its value is a text, in which
// "" is NULL, or a number, in which nil is.
type inventoryColumn struct {
	table.ColumnDefinition
	value func(*entry) any
}

// fileColumns take a look at the module's file, which the others do without.
var fileColumns = []string{"path", "sha256", "signer", "package", "team_id", "cdhash", "missing"}

var inventoryColumns = []inventoryColumn{
	{text("name", indexed, "Name of the module; NULL for memory of a module that nothing names"),
		func(e *entry) any { return e.Name }},
	{number("size", local, "Memory that it takes, in bytes"),
		func(e *entry) any { return e.Size }},
	{number("refs", local, "How many users it has"),
		func(e *entry) any { return e.Refs }},
	{text("used_by", local, "JSON array of the modules that use it"),
		func(e *entry) any { return array(e.UsedBy) }},
	{text("state", local, "Live, Loading or Unloading; Gone where it is not loaded and macOS remembers that it was"),
		func(e *entry) any { return e.State }},
	{text("address", local, "Address of its memory, in hex; NULL where the kernel hides addresses"),
		func(e *entry) any { return address(e.Address) }},
	{number("taints", local, "Mask of the TAINT_ bits that it brought"),
		func(e *entry) any { return e.Taints }},
	{text("version", local, "Version that it states"),
		func(e *entry) any { return e.Version }},
	{text("srcversion", local, "Hash of its sources that it states"),
		func(e *entry) any { return e.Srcversion }},
	{text("path", local, "Path of its file: the one that it was read from, where an event says that, else the one that modprobe would take now"),
		func(e *entry) any { return e.file.Path }},
	{text("sha256", local, "SHA-256 of the file as it is now, in hex"),
		func(e *entry) any { return e.file.SHA256 }},
	{text("signer", local, "Who signed the file, as its signature claims"),
		func(e *entry) any { return e.file.Signer }},
	{text("package", local, "Package that owns the file, by the database of dpkg, rpm or pacman; NULL where none does"),
		func(e *entry) any { return e.file.Package }},
	{text("load_id", local, "Attempt in kernel_module_events that brought it, where a source saw that"),
		func(e *entry) any { return e.LoadID }},
	{number("first_seen", local, "1 if that attempt was the first of this name and hash on this host"),
		func(e *entry) any { return e.FirstSeen }},
	{text("views", local, "JSON array of the views that show it: modules (/proc/modules), sysfs, kallsyms, ftrace, btf, vmallocinfo, events; on macOS showloaded (kmutil) and kextpolicy"),
		func(e *entry) any { return array(e.Views) }},
	{number("hidden", local, "1 if the kernel's own list lacks it, in two looks"),
		func(e *entry) any {
			if e.IsHidden() {
				return int64(1)
			}
			return int64(0)
		}},
	{text("team_id", local, "Team that signed it, on macOS: by KextPolicy, else by the signature on disk"),
		func(e *entry) any { return cmp.Or(e.TeamID, e.file.TeamID) }},
	{text("cdhash", local, "Hash of its code directory, on macOS: of what was loaded by KextPolicy, else of what is on disk"),
		func(e *entry) any { return cmp.Or(e.CDHash, e.file.CDHash) }},
	{text("policy", local, "Who let it load, by macOS's KextPolicy: mdm, user, or unapproved"),
		func(e *entry) any { return e.Policy }},
	{number("last_loaded", local, "Unix time at which it was loaded last, by macOS's KextPolicy"),
		func(e *entry) any { return e.LastLoaded }},
	{text("missing", local, "Columns that should have a value and could not be had, comma-separated"),
		func(e *entry) any { return e.missing() }},
}

// missing names what is unknown of the module, and then of its file.
func (e *entry) missing() string {
	var missing kmodquery.Columns
	for _, column := range []struct {
		name      string
		isUnknown bool
	}{
		{"name", e.Name == ""}, {"size", e.Size == nil}, {"refs", e.Refs == nil}, {"state", e.State == ""},
		{"address", e.Address == nil}, {"taints", e.Taints == nil && !slices.Contains(e.Views, kmodquery.ViewShowloaded)},
	} {
		if column.isUnknown && e.State != kmodquery.ModuleGone {
			missing.Add(column.name)
		}
	}
	for column := range e.file.Missing.All() {
		missing.Add(column)
	}
	return missing.String()
}

// A ready text is fit for a cell as it stands.
type ready string

// array is a JSON array of names, each as in a cell.
func array(names []string) ready {
	if len(names) == 0 {
		return ""
	}
	safe := make([]string, len(names))
	for i, name := range names {
		safe[i] = kmodquery.Escape(name)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(safe); err != nil {
		return "" // texts always encode
	}
	return ready(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

func address(a *int64) string {
	if a == nil {
		return ""
	}
	return fmt.Sprintf("0x%x", uint64(*a))
}

func generateInventory(ctx context.Context, c Config, q query) ([]map[string]string, error) {
	if c.Inventory == nil {
		return nil, &kmodquery.NotSupportedError{Missing: "an inventory of modules on this platform", Need: "Linux"}
	}
	modules, err := looked(ctx, c.Inventory)
	if err != nil {
		return nil, err
	}
	var conditions []kmodquery.Condition
	for _, constraints := range q.constraints {
		if name, ok := kmodquery.EventColumn("name"); ok && constraints.name == name.Name {
			conditions = append(conditions, columnConditions(name, constraints.list)...)
		}
	}
	usesFile := slices.ContainsFunc(fileColumns, q.uses)
	var rows []map[string]string
	for _, m := range modules {
		if !isAsked(m.Name, conditions) {
			continue
		}
		e := entry{Module: m}
		if usesFile {
			if e.file = c.Inventory.File(ctx, m); ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		rows = append(rows, e.row(q))
	}
	return rows, nil
}

// looked returns the modules after a second look, where there is one that hides:
// what comes or goes is in some views before it is in others. What hides in the
// second look only is as it was in the first, if it was there.
func looked(ctx context.Context, inventory Inventory) ([]kmodquery.Module, error) {
	first, err := inventory.Modules(ctx)
	if err != nil || !slices.ContainsFunc(first, isHidden) {
		return first, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(lookAgain):
	}
	second, err := inventory.Modules(ctx)
	if err != nil {
		return nil, err
	}
	before := map[int64]kmodquery.Module{}
	for _, m := range first {
		before[identity(m)] = m
	}
	var modules []kmodquery.Module
	for _, m := range second {
		former, wasThere := before[identity(m)]
		switch {
		// Another load of the name in between is another module.
		case !isHidden(m) || wasThere && isHidden(former) && former.LoadID == m.LoadID:
			modules = append(modules, m)
		case wasThere:
			modules = append(modules, former)
		}
	}
	return modules, nil
}

func isHidden(m kmodquery.Module) bool { return m.IsHidden() }

// isAsked reports whether conditions on the name, which are all of equality,
// let one through. Whoever asks may do so with COLLATE NOCASE or COLLATE RTRIM,
// of which osquery's constraints say nothing.
func isAsked(name string, conditions []kmodquery.Condition) bool {
	for _, condition := range conditions {
		if !slices.ContainsFunc(condition.Values, func(value any) bool {
			text, ok := value.(string)
			return !ok || strings.EqualFold(strings.TrimRight(text, " "), strings.TrimRight(name, " "))
		}) {
			return false
		}
	}
	return true
}

// identity is a module's row number, the same in each reply.
func identity(m kmodquery.Module) int64 {
	sum := fnv.New64a()
	sum.Write([]byte(m.Name))
	if m.Name == "" {
		sum.Write([]byte(address(m.Address)))
	}
	return int64(sum.Sum64() >> 1)
}

func (e *entry) row(q query) map[string]string {
	row := map[string]string{}
	for _, column := range inventoryColumns {
		if !q.uses(column.Name) {
			continue
		}
		switch value := column.value(e).(type) {
		case int64:
			row[column.Name] = strconv.FormatInt(value, 10)
		case *int64:
			if value != nil {
				row[column.Name] = strconv.FormatInt(*value, 10)
			}
		case string:
			if value != "" {
				row[column.Name] = kmodquery.Escape(value)
			}
		case ready:
			if value != "" {
				row[column.Name] = string(value)
			}
		}
	}
	if !q.usesNothing() {
		row[rowidKey] = strconv.FormatInt(identity(e.Module), 10)
	}
	return row
}
