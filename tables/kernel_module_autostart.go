package tables

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// kernelModuleAutostart is the table of the lines that have modules loaded.
var kernelModuleAutostart = definition[autostartRow]{
	name: "kernel_module_autostart",
	description: "Configuration that loads kernel modules on Linux, or changes what is loaded: one row for each line and each module that " +
		"it names, also for lines that take no effect. If a file or a part of it cannot be read, a row without text says why. " +
		"path and the columns after it are about the module's file; file and the columns that begin with file_ about the configuration",
	examples: []string{
		"SELECT place, file, line, text, name, path FROM kernel_module_autostart WHERE effective IS NOT 0 AND coalesce(file_package, '') = '' AND file NOT LIKE '/proc/%'",
		"SELECT file, line, requested, argument FROM kernel_module_autostart WHERE action = 'install' AND effective = 1",
		"SELECT file, text, argument FROM kernel_module_autostart WHERE place = 'modules.dep' OR place = 'sysctl' AND argument <> '/sbin/modprobe'",
		"SELECT file, line, text, reason, missing FROM kernel_module_autostart WHERE effective = 0 OR effective IS NULL",
	},
	columns:  autostartColumns,
	generate: generateAutostart,
}

// An autostartRow is the content of one row.
type autostartRow struct {
	kmodquery.AutostartEntry
	module        kmodquery.ModuleFile
	configPackage string
}

var autostartColumns = []columnOf[autostartRow]{
	text("place", local, "Where the line is: modules-load.d (also /etc/modules), modprobe.d (also depmod's modules.softdep), cmdline (the running kernel's command line), sysctl (kernel.modprobe: now, if file is in /proc, and in sysctl.d), udev (what rules run), modules.dep (modules for which modules.dep.bin, which kmod reads, has something else), initramfs-tools, dracut, next_cmdline (command lines in the configuration of boot loaders), depmod.d, dkms or programs (lines of systemd's units and of scripts of init and cron that name insmod, modprobe or kmod)",
		func(r *autostartRow) string { return r.Place }),
	text("stage", local, "When it takes effect: initrd (in the initial file system), boot (once, when the host boots), event (when a device appears) or autoload (whenever modprobe loads a module, also for the kernel)",
		func(r *autostartRow) string { return r.Stage }),
	text("file", local, "File that has the line, with links resolved",
		func(r *autostartRow) string { return kmodquery.Escape(r.File) }),
	number("line", local, "Number of the line in the file; the last one of a line that is continued",
		func(r *autostartRow) *int64 { return known(&r.Line) }),
	text("text", local, "The line, without the marks of its continuation; a parameter of the command line",
		func(r *autostartRow) string { return kmodquery.Escape(r.Text) }),
	text("action", local, "load; the line's command: alias, blacklist, install, options, remove, softdep, weakdep; the key of a rule, such as RUN; the variable of dracut or dkms; the setting of a unit; modprobe for the program that the kernel runs; dep for a difference in modules.dep; script for a program that initramfs-tools runs",
		func(r *autostartRow) string { return kmodquery.Escape(r.Action) }),
	text("name", local, "Module that is loaded or configured. An alias is resolved as modprobe does it now, and may name several",
		func(r *autostartRow) string { return kmodquery.Escape(r.Name) }),
	text("requested", local, "Module, alias or pattern that the line applies to; for softdep the module that depends on name",
		func(r *autostartRow) string { return kmodquery.Escape(r.Requested) }),
	text("argument", local, "Options of the module, the command that is run, for softdep when name is loaded: pre or post, for modules.dep what modules.dep.bin has",
		func(r *autostartRow) string { return kmodquery.Escape(r.Argument) }),
	number("effective", local, "1 if the line takes effect, 0 if not, NULL if that is not known. For udev and dkms, 1 says only that no file masks it",
		func(r *autostartRow) *int64 { return r.Effective }),
	text("reason", local, "Why it takes no effect, or why that is unknown: the file or line that takes precedence, a blacklist, no such module, a file that cannot be read. For a load that takes effect, the command that is run instead",
		func(r *autostartRow) string { return kmodquery.Escape(r.Reason) }),
	text("path", local, "Module's file that modprobe would load now, from modules.dep.bin",
		func(r *autostartRow) string { return kmodquery.Escape(r.Path) }),
	text("sha256", local, "SHA-256 of the module's file in hex",
		func(r *autostartRow) string { return kmodquery.Escape(r.module.SHA256) }),
	text("signer", local, "Signer that the signature of the module's file names",
		func(r *autostartRow) string { return kmodquery.Escape(r.module.Signer) }),
	text("package", local, "Package that owns the module's file, from the database of dpkg, rpm or pacman; NULL if there is none",
		func(r *autostartRow) string { return kmodquery.Escape(r.module.Package) }),
	text("file_package", local, "Package that owns file; NULL if there is none",
		func(r *autostartRow) string { return kmodquery.Escape(r.configPackage) }),
	number("file_uid", local, "User that owns file", func(r *autostartRow) *int64 { return r.UID }),
	text("file_mode", local, "Permissions of file, in octal", func(r *autostartRow) string { return octal(r.Mode) }),
	number("file_mtime", local, "Unix time in seconds at which file was last modified", func(r *autostartRow) *int64 { return r.Mtime }),
	text("missing", local, "Columns that apply and whose value could not be determined, separated by commas",
		func(r *autostartRow) string { return kmodquery.Escape(r.missing()) }),
}

// missing returns the unknown columns of the entry, of the module's file, and of the file.
func (r *autostartRow) missing() string {
	missing := r.Missing
	if missing.Has("path") {
		missing.Add("sha256", "signer", "package")
	}
	for column := range r.module.Missing.All() {
		missing.Add(column)
	}
	return missing.String()
}

func octal(mode *int64) string {
	if mode == nil {
		return ""
	}
	return fmt.Sprintf("%04o", *mode)
}

func generateAutostart(ctx context.Context, c Config, q query) ([]map[string]string, error) {
	if c.Autostart == nil {
		return nil, &kmodquery.NotSupportedError{Missing: "a list of places that load modules on this platform", Need: "Linux"}
	}
	entries, err := c.Autostart.Entries(ctx)
	if err != nil {
		return nil, err
	}
	usesModule := slices.ContainsFunc([]string{"sha256", "signer", "package", "missing"}, q.uses)
	usesPackage := slices.ContainsFunc([]string{"file_package", "missing"}, q.uses)
	row := rowFunc(used(q, autostartColumns))
	modules := map[string]kmodquery.ModuleFile{}
	type owner struct {
		name    string
		isKnown bool
	}
	owners := map[string]owner{}
	ids := map[int64]int64{}
	rowOf := func(e kmodquery.AutostartEntry) map[string]string {
		r := autostartRow{AutostartEntry: e}
		if usesModule && e.Path != "" {
			file, isRead := modules[e.Path]
			if !isRead {
				file = c.Autostart.FileAt(ctx, e.Path)
				modules[e.Path] = file
			}
			r.module = file
		}
		if usesPackage && e.File != "" && !strings.HasPrefix(e.File, "/proc/") {
			by, isRead := owners[e.File]
			if !isRead {
				by.name, by.isKnown = c.Autostart.Package(ctx, e.File)
				owners[e.File] = by
			}
			if r.configPackage = by.name; !by.isKnown {
				r.Missing.Add("file_package")
			}
		}
		id := r.identity()
		ids[id]++ // a line may name one module twice
		return row(&r, id+ids[id]-1)
	}
	bound := c.bound()
	var rows []map[string]string
	var total int64
	cost := func(e kmodquery.AutostartEntry) int64 {
		r := rowOf(e)
		n := bound.cost([]map[string]string{r})
		if total += n; total <= bound.bytes {
			rows = append(rows, r)
		}
		return n
	}
	costs := make([]int64, len(entries))
	for i, e := range entries {
		if costs[i] = cost(e); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if total > bound.bytes {
		entries = fitting(entries, costs, bound.bytes, cost)
		clear(ids)
		rows, total = nil, 0
		for _, e := range entries {
			cost(e)
		}
		if total > bound.bytes {
			return nil, fmt.Errorf("reply would have more than %s, which %d lines do not fit into; select fewer columns", bound, len(costs))
		}
	}
	return rows, ctx.Err()
}

// maxCutFiles bounds the files that a reply names because it lacks rows of them.
const maxCutFiles = 64

// fitting returns the entries whose rows fit into a reply. costs has the bytes of each entry's
// row, and cost returns those of a row that is added. The files share the reply, so that the
// many lines of one file hide no line of another. A file that needs less than its share keeps
// all rows. For the others an entry without text says how many rows are left out.
func fitting(entries []kmodquery.AutostartEntry, costs []int64, bound int64, cost func(kmodquery.AutostartEntry) int64) []kmodquery.AutostartEntry {
	bytes := map[string]int64{} // that the rows of each file cost
	var longest kmodquery.AutostartEntry
	for i, e := range entries {
		bytes[e.File] += costs[i]
		if len(e.File) > len(longest.File) {
			longest = e
		}
	}
	left := bound - int64(min(len(bytes), maxCutFiles+1))*cost(cutEntry(longest, len(entries), len(bytes)))
	share := left
	for i, n := range slices.Sorted(maps.Values(bytes)) {
		if share = left / int64(len(bytes)-i); n > share {
			break
		}
		left -= n
	}
	var fit, cut []kmodquery.AutostartEntry // cut are the first entries of the files that do not fit
	spent, lost := map[string]int64{}, map[string]int{}
	for i, e := range entries {
		if bytes[e.File] > share && spent[e.File] == 0 {
			cut = append(cut, e)
		}
		if spent[e.File] += costs[i]; spent[e.File] <= share || bytes[e.File] <= share {
			fit = append(fit, e)
		} else {
			lost[e.File]++
		}
	}
	more := 0 // rows of files that are not named
	for i, e := range cut {
		if i < maxCutFiles {
			fit = append(fit, cutEntry(e, lost[e.File], 1))
		} else {
			more += lost[e.File]
		}
	}
	if more > 0 {
		fit = append(fit, cutEntry(kmodquery.AutostartEntry{}, more, len(cut)-maxCutFiles))
	}
	return fit
}

// cutEntry returns an entry that stands for rows of the file of an entry, or of several files.
func cutEntry(e kmodquery.AutostartEntry, rows, files int) kmodquery.AutostartEntry {
	e = kmodquery.AutostartEntry{Place: e.Place, Stage: e.Stage, File: e.File, UID: e.UID, Mode: e.Mode, Mtime: e.Mtime}
	of := "the file"
	if files > 1 {
		of = fmt.Sprintf("%d files", files)
	}
	e.Reason = fmt.Sprintf("%d more rows of %s do not fit into the reply; select fewer columns", rows, of)
	e.Missing.Add("line", "text", "action", "name", "effective")
	return e
}

// identity returns a row's rowid, the same in each reply.
func (r *autostartRow) identity() int64 {
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%s\x00%s\x00%d\x00%s\x00%s\x00%s\x00%s", r.Place, r.File, r.Line, r.Text, r.Name, r.Requested, r.Argument)
	return int64(sum.Sum64() >> 1)
}
