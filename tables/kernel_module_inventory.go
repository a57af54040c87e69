package tables

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// confirmDelay is the time between the first and the second reading of the views if a
// module seems hidden.
const confirmDelay = 100 * time.Millisecond

// kernelModuleInventory is the table of the modules that are loaded now.
var kernelModuleInventory = definition[entry]{
	name: "kernel_module_inventory",
	description: "Kernel modules that are loaded now: one row for each module that any view of the kernel shows, joined with the " +
		"events of its load. Several loads may have one name, if all but one hide. A hidden module is one that the kernel's own list omits. On macOS also the kernel extensions " +
		"that the system remembers as loaded before (state Gone)",
	examples: []string{
		"SELECT name, size, address, views FROM kernel_module_inventory WHERE hidden = 1",
		"SELECT name, path, load_id FROM kernel_module_inventory WHERE taints & 8192",
		"SELECT name, path, sha256, signer, package, missing FROM kernel_module_inventory WHERE coalesce(package, '') = ''",
	},
	columns:  inventoryColumns,
	generate: generateInventory,
}

// An entry is the content of one row.
type entry struct {
	kmodquery.Module
	file kmodquery.ModuleFile
}

// fileColumns are the columns that need the module's file.
var fileColumns = []string{"path", "sha256", "signer", "package", "team_id", "cdhash", "missing"}

var inventoryColumns = []columnOf[entry]{
	text("name", indexed, "Name of the module; NULL for module memory that no view names",
		func(e *entry) string { return kmodquery.Escape(e.Name) }).comparedAs("name"),
	number("size", local, "Size of the module's memory in bytes",
		func(e *entry) *int64 { return e.Size }),
	number("refs", local, "Number of users of the module", func(e *entry) *int64 { return e.Refs }),
	text("used_by", local, "JSON array of the modules that use it",
		func(e *entry) string { return array(e.UsedBy) }),
	text("state", local, "Live, Loading or Unloading; Gone for a kernel extension that is not loaded and that macOS remembers as loaded; a test load by kextutil may leave the same trace",
		func(e *entry) string { return kmodquery.Escape(e.State) }),
	text("address", local, "Address of the module's memory, in hex; NULL if the kernel hides addresses",
		func(e *entry) string { return address(e.Address) }),
	number("taints", local, "Mask of the TAINT_ bits that the module set, such as 8192 for an unsigned module (E) and 4096 for one from out of tree (O)",
		func(e *entry) *int64 { return e.Taints }),
	text("taint_flags", local, taintFlagsHelp, func(e *entry) string { return kmodquery.TaintFlags(e.Taints) }),
	text("version", local, "Version that the module declares",
		func(e *entry) string { return kmodquery.Escape(e.Version) }),
	text("srcversion", local, "Checksum of its source files that the module declares",
		func(e *entry) string { return kmodquery.Escape(e.Srcversion) }),
	text("path", local, "Path of the module's file: the one that it was loaded from if an event says so, otherwise the one that modprobe would load now",
		func(e *entry) string { return kmodquery.Escape(e.file.Path) }),
	text("sha256", local, "SHA-256 of the file in hex. Unknown if a source observed the load and the file does not hold what was loaded, or cannot be compared",
		func(e *entry) string { return kmodquery.Escape(e.file.SHA256) }),
	text("signer", local, "Signer that the signature names: of the bytes that were loaded if an event has it, otherwise of the file",
		func(e *entry) string { return kmodquery.Escape(e.file.Signer) }),
	text("signature_status", local, "The kernel's verdict on the signature of the bytes that were loaded, as in kernel_module_events: valid, unsigned, untrusted, rejected or unknown. NULL, and in missing, if no source observed the load. A signer that is NULL does not mean unsigned",
		func(e *entry) string { return kmodquery.Escape(e.SignatureStatus) }),
	text("package", local, "Package that owns the file, from the database of dpkg, rpm or pacman; NULL if there is none. Unknown if a source observed the load and the file does not hold what was loaded, or cannot be compared",
		func(e *entry) string { return kmodquery.Escape(e.file.Package) }),
	text("load_id", local, "Attempt in kernel_module_events that loaded the module, if a source observed it",
		func(e *entry) string { return kmodquery.Escape(e.LoadID) }),
	number("first_seen", local, "1 if that attempt was the first with this name and hash on this host",
		func(e *entry) *int64 { return e.FirstSeen }),
	text("views", local, "JSON array of the views that show the module: modules (/proc/modules), sysfs, kallsyms, ftrace, btf, vmallocinfo, events; on macOS showloaded (kmutil) and kextpolicy",
		func(e *entry) string { return array(e.Views) }),
	number("hidden", local, "1 if the kernel's own list omits the module in two observations",
		func(e *entry) *int64 { return bit(e.IsHidden()) }),
	text("team_id", local, "Apple team that signed the kernel extension: from KextPolicy, otherwise from the signature on disk",
		func(e *entry) string { return kmodquery.Escape(cmp.Or(e.TeamID, e.file.TeamID)) }),
	text("cdhash", local, "Code directory hash of the kernel extension: of the loaded one from KextPolicy, otherwise of the one on disk",
		func(e *entry) string { return kmodquery.Escape(cmp.Or(e.CDHash, e.file.CDHash)) }),
	text("policy", local, "Decision on loading the kernel extension, from macOS's KextPolicy: mdm, user or unapproved",
		func(e *entry) string { return kmodquery.Escape(e.Policy) }),
	number("last_loaded", local, "Unix time in seconds of the last load, from macOS's KextPolicy; a test load by kextutil may set it too",
		func(e *entry) *int64 { return e.LastLoaded }),
	text("collection", local, "Collection from which macOS loaded the kernel extension: boot, system, auxiliary, codeless or unknown",
		func(e *entry) string { return e.Collection }),
	text("missing", local, "Columns that apply and whose value could not be determined, separated by commas",
		func(e *entry) string { return kmodquery.Escape(e.missing()) }),
}

// isKext reports whether it is a kernel extension of macOS.
func (e *entry) isKext() bool { return slices.Contains(e.Views, kmodquery.ViewShowloaded) }

// missing returns the unknown columns of the module, and then of its file.
func (e *entry) missing() string {
	var missing kmodquery.Columns
	for _, column := range []struct {
		name      string
		isUnknown bool
	}{
		{"name", e.Name == ""}, {"size", e.Size == nil}, {"refs", e.Refs == nil}, {"state", e.State == ""},
		{"address", e.Address == nil}, {"taints", e.Taints == nil && !e.isKext()},
		{"signature_status", !e.isKext() && e.SignatureStatus == ""},
		// No file in sysfs is read for a hidden module.
		{"version", e.IsHidden() && e.Version == ""}, {"srcversion", e.IsHidden() && e.Srcversion == ""},
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

// array returns a JSON array of names, each escaped as in a cell; "" without names.
func array(names []string) string {
	if len(names) == 0 {
		return ""
	}
	safe := make([]string, len(names))
	for i, name := range names {
		safe[i] = kmodquery.Escape(name)
	}
	return jsonText(safe)
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
	modules, err := confirmed(ctx, c.Inventory)
	if err != nil {
		return nil, err
	}
	byName, columns := conditions(q, inventoryColumns), used(q, inventoryColumns)
	usesFile := slices.ContainsFunc(fileColumns, q.uses)
	bound, cost := c.bound(), int64(0)
	row := rowFunc(columns)
	var rows []map[string]string
	for _, m := range modules {
		if !isSelected(m.Name, byName) {
			continue
		}
		e := entry{Module: m}
		if usesFile {
			if e.file = c.Inventory.File(ctx, m); ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		rows = append(rows, row(&e, identity(m)))
		if cost += bound.cost(rows[len(rows)-1:]); cost > bound.bytes {
			return nil, fmt.Errorf("reply would have more than %s: only %d of %d modules fit; select fewer columns, or modules by their names",
				bound, len(rows)-1, len(modules))
		}
	}
	return rows, nil
}

// confirmed returns the modules that the views show. If one seems hidden, it reads the
// views twice, because a module that is being loaded or unloaded is in some views earlier
// than in others. A module that is hidden in the second reading only is returned as in
// the first one, if it was there.
func confirmed(ctx context.Context, inventory Inventory) ([]kmodquery.Module, error) {
	first, err := inventory.Modules(ctx)
	if err != nil || !slices.ContainsFunc(first, isHidden) {
		return first, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(confirmDelay):
	}
	second, err := inventory.Modules(ctx)
	if err != nil {
		return nil, err
	}
	before, byName := map[int64]kmodquery.Module{}, map[string]kmodquery.Module{}
	for _, m := range slices.Backward(first) {
		before[identity(m)], byName[m.Name] = m, m
	}
	var modules []kmodquery.Module
	for _, m := range second {
		// A load of the same name between the readings is another module.
		former, wasThere := before[identity(m)]
		if !isHidden(m) || wasThere && isHidden(former) {
			modules = append(modules, m)
			continue
		}
		if former, wasThere = byName[m.Name]; wasThere && m.Name != "" && !slices.ContainsFunc(second, func(other kmodquery.Module) bool {
			return other.Name == m.Name && identity(other) != identity(m)
		}) {
			modules = append(modules, former)
		}
	}
	return modules, nil
}

func isHidden(m kmodquery.Module) bool { return m.IsHidden() }

// isSelected reports whether a name satisfies conditions on it, which are all of
// equality. A query may use COLLATE NOCASE or COLLATE RTRIM, which osquery's constraints
// do not mention.
func isSelected(name string, conditions []kmodquery.Condition) bool {
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

// identity returns a module's rowid, the same in each reply. A module is its load: several
// may have one name.
func identity(m kmodquery.Module) int64 {
	sum := fnv.New64a()
	sum.Write([]byte(m.Name + "\x00" + m.LoadID))
	if m.Name == "" {
		sum.Write([]byte(address(m.Address)))
	}
	return int64(sum.Sum64() >> 1)
}
