package tables

import (
	"context"
	"fmt"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// kernelModuleEvents is the table of stored events, as they are.
func kernelModuleEvents(c Config) definition {
	return definition{
		name: "kernel_module_events",
		description: "Kernel modules being loaded, unloaded and requested: one row for each fact that one source saw, " +
			"written once and never changed",
		examples: []string{
			"SELECT time, event_name, name, path, result, process_path, uid FROM kernel_module_events WHERE time > strftime('%s', 'now') - 3600",
			"SELECT name, path, signer, cmdline FROM kernel_module_events WHERE event_name = 'module_load' AND signature_status != 'valid'",
			"SELECT * FROM kernel_module_events WHERE load_id = (SELECT load_id FROM kernel_module_events WHERE name = 'dummy' LIMIT 1)",
		},
		columns: eventColumns,
		generate: func(ctx context.Context, q query) ([]map[string]string, error) {
			return generateEvents(ctx, c, q)
		},
	}
}

func generateEvents(ctx context.Context, c Config, q query) ([]map[string]string, error) {
	if err := syncBeforeRead(ctx, c.Recorder); err != nil {
		return nil, err
	}
	filter := kmodquery.Filter{Conditions: q.conditions(kmodquery.EventColumn), Columns: []string{}}
	if q.usesNothing() {
		n, err := c.Store.Count(ctx, filter)
		if err != nil {
			return nil, err
		}
		return empty(n), nil
	}
	var columns []kmodquery.Column
	for _, column := range kmodquery.EventColumns() {
		if q.uses(column.Name) {
			columns = append(columns, column)
			filter.Columns = append(filter.Columns, column.Name)
		}
	}
	eid, _ := kmodquery.EventColumn("eid")
	return collect(ctx, c.Store, c.ReplyBytes, view{
		filter: filter,
		rows: func(e *kmodquery.Event) []map[string]string {
			row := make(map[string]string, len(columns)+1)
			for _, column := range columns {
				put(row, column.Name, column, e)
			}
			put(row, rowidKey, eid, e)
			return []map[string]string{row}
		},
		count:        func(*kmodquery.Event) int { return 1 },
		countColumns: []string{},
	})
}

// eventColumns are the columns of an event, in the order of its fields.
var eventColumns = []table.ColumnDefinition{
	ofEvent("time", indexed, "When it happened, as Unix time in seconds"),
	ofEvent("time_nanos", filtered, "The same moment in nanoseconds"),
	ofEvent("uptime", filtered, "Seconds since the host was started, time asleep included"),
	ofEvent("boot_id", filtered, "The kernel's random id of this boot"),
	ofEvent("eid", indexed, "Number of the event in this host's store, rising in the order of storage and never used again"),
	ofEvent("event_name", indexed, "The kernel's name for what happened: a system call (init_module, finit_module, delete_module), "+
		"a security hook (security_kernel_read_file, security_kernel_load_data), a tracepoint (module_load, module_free, "+
		"module_request), what views of the kernel show (module_present at the start, module_hidden, module_unwitnessed: it "+
		"came and no source saw it, taint_reset), or on macOS kextload, "+
		"kextunload and the verdicts of policy, kext_allowed and kext_blocked"),
	ofEvent("source", indexed, "The source that saw it, as in kernel_module_sensors"),
	ofEvent("load_id", indexed, "Shared by all events of one attempt to load or unload a module"),
	ofEvent("parent_load_id", filtered, "The load_id of the attempt from inside which this one was made, or of the module_request for which the kernel made it"),
	ofEvent("name", indexed, "Name of the module"),
	ofEvent("path", indexed, "File that the module was read from, resolved across mounts"),
	ofEvent("type", filtered, "What the kernel reads the bytes for, such as kernel-module or firmware"),
	ofEvent("origin", filtered, "Where the bytes came from: file, memfd, deleted (a file without a name left), memory (init_module) or kernel (init_module called inside the kernel)"),
	ofEvent("filesystem", filtered, "Type of the filesystem that the file lies on"),
	ofEvent("device", filtered, "Number of the device that the file lies on, as stat(2) forms it from the superblock's; not st_dev on btrfs and overlayfs"),
	ofEvent("inode", filtered, "Inode number of the file"),
	ofEvent("size", filtered, "Size of the module in bytes, as handed to the kernel"),
	ofEvent("mtime", filtered, "Last change of the file's content, as Unix time in seconds"),
	ofEvent("ctime", filtered, "Last change of the file's inode, as Unix time in seconds"),
	ofEvent("sha256", indexed, "SHA-256 of the bytes handed to the kernel, compressed or not"),
	ofEvent("image_sha256", filtered, "SHA-256 of the module after decompression; equals sha256 if it is not compressed"),
	ofEvent("hash_source", filtered, "What was hashed: kernel (the bytes that the kernel itself read) or file (the file, afterwards)"),
	ofEvent("signature_status", filtered, "The kernel's verdict on the module's signature: valid, unsigned, untrusted (no key for it), rejected or unknown"),
	ofEvent("signer", filtered, "Who signed the module: the issuer that the signature names, which only signature_status makes true"),
	ofEvent("signature_key_id", filtered, "Id of the key that the module was signed with, as modinfo shows it"),
	ofEvent("signature_hash", filtered, "Hash algorithm of the signature"),
	ofEvent("version", filtered, "The module's own version"),
	ofEvent("srcversion", filtered, "The module's checksum of its source files"),
	ofEvent("vermagic", filtered, "Kernel version and options that the module was built for"),
	ofEvent("license", filtered, "Licence that the module declares"),
	ofEvent("intree", filtered, "1 if the module says that it was built with the kernel"),
	// Compared by osquery only: it drops an empty text from a list of values, and
	// the loads without parameters with it.
	ofEvent("params", local, "Parameters that the loader passed; empty if there were none"),
	ofEvent("flags", filtered, "Flags of the system call"),
	ofEvent("taints", filtered, "Mask of the kernel taints that the module brings"),
	ofEvent("result", filtered, "0 for success or the negative errno; NULL while unknown"),
	ofEvent("error", filtered, "Name of the errno in result"),
	ofEvent("pid", indexed, "Process that did it, in the host's pid namespace"),
	ofEvent("tid", filtered, "Thread that did it"),
	ofEvent("parent", filtered, "Process id of the process's parent"),
	ofEvent("process_name", filtered, "The thread's command name, at most 15 bytes"),
	ofEvent("process_path", filtered, "Executable of the process; empty for a thread of the kernel's own"),
	ofEvent("cmdline", filtered, "Command line of the process, its arguments joined by blanks; at most 4096 bytes"),
	ofEvent("cwd", filtered, "Working directory of the process"),
	ofEvent("uid", filtered, "User id of the process"),
	ofEvent("euid", filtered, "Effective user id of the process"),
	ofEvent("gid", filtered, "Group id of the process"),
	ofEvent("egid", filtered, "Effective group id of the process"),
	ofEvent("auid", filtered, "User id that the session logged in with, as audit has it; 4294967295 if there was no login"),
	ofEvent("session_id", filtered, "Audit session of the process; 4294967295 if there is none"),
	ofEvent("capabilities", filtered, "Effective capabilities of the process as a mask"),
	ofEvent("ancestors", filtered, "The process's ancestors up to process 1 as a JSON array of pid, path, comm and uid, nearest first; at most 16"),
	ofEvent("requested_by", filtered, "The process whose request made the kernel start this loader, as a JSON object: pid, path, comm, cmdline, uid, container_id and what it requested"),
	ofEvent("container_id", indexed, "Container that the process runs in, by its control group"),
	ofEvent("cgroup", filtered, "Control group of the process: its path in the default hierarchy, or in that of the pids controller where that one is not used"),
	ofEvent("mnt_ns", filtered, "Inode number of the process's mount namespace"),
	ofEvent("pid_ns", filtered, "Inode number of the process's pid namespace"),
	ofEvent("user_ns", filtered, "Inode number of the process's user namespace"),
	ofEvent("team_id", filtered, "Apple team that signed the kernel extension"),
	ofEvent("cdhash", filtered, "Code directory hash of the kernel extension"),
	ofEvent("process_signing_id", filtered, "Signing id of the process on macOS"),
	ofEvent("process_team_id", filtered, "Apple team that signed the process"),
	ofEvent("first_seen", filtered, "1 if this name and hash were never seen on this host before"),
	ofEvent("count", filtered, "Attempts that this row stands for: 1, or how many that were denied alike"),
	ofEvent("missing", filtered, "Columns that should have a value and could not be had, separated by commas"),
	ofEvent("raw", hidden, "The record of a text source as it stood"),
	ofEvent("reason", filtered, "Why the recorder says so, for events that it found by comparing what the kernel shows with what the sources saw"),
}

// eventColumn returns the events table's own definition of a column, for other
// tables that show it.
func eventColumn(name string) table.ColumnDefinition {
	for _, definition := range eventColumns {
		if definition.Name == name {
			return definition
		}
	}
	panic(fmt.Sprintf("kernel_module_events has no column %s", name))
}
