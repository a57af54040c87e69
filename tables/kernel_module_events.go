package tables

import (
	"context"

	"github.com/kmodquery/kmodquery"
)

// kernelModuleEvents is the table of stored events.
var kernelModuleEvents = definition[kmodquery.Event]{
	name: "kernel_module_events",
	description: "Loads, unloads and requests of kernel modules. A row is one event that one source observed. " +
		"Rows never change. WHERE reports_load = 1 selects one row for each attempt to load a module, also for a refused one",
	examples: []string{
		"SELECT datetime(time, 'unixepoch'), name, coalesce(nullif(path, ''), origin), process_path, cmdline, uid, auid, container_id FROM kernel_module_events " +
			"WHERE reports_load = 1 AND time > strftime('%s', 'now') - 3600",
		"SELECT time, name, path, cmdline FROM kernel_module_events WHERE reports_load = 1 AND " +
			"(container_id LIKE 'ID%' OR json_extract(nullif(requested_by, ''), '$.container_id') LIKE 'ID%')",
		"SELECT name, path, signer, cmdline FROM kernel_module_events WHERE event_name = 'module_load' AND coalesce(signature_status, '') != 'valid'",
		"SELECT * FROM kernel_module_events WHERE load_id = (SELECT load_id FROM kernel_module_events WHERE name = 'dummy' AND load_id != '' LIMIT 1)",
	},
	columns:  eventColumns,
	generate: generateEvents,
}

func generateEvents(ctx context.Context, c Config, q query) ([]map[string]string, error) {
	if err := syncBeforeRead(ctx, c, q); err != nil {
		return nil, err
	}
	columns := used(q, eventColumns)
	filter := kmodquery.Filter{Conditions: conditions(q, eventColumns), Columns: eventNames(columns)}
	if q.usesNothing() {
		n, err := c.Store.Count(ctx, filter)
		if err != nil {
			return nil, err
		}
		return counted(c, n)
	}
	row := rowFunc(columns)
	return collect(ctx, c, q, view{
		table:        "kernel_module_events",
		asked:        filter.Conditions,
		filter:       filter,
		rows:         func(e *kmodquery.Event) []map[string]string { return []map[string]string{row(e, e.EID)} },
		count:        func(*kmodquery.Event) int { return 1 },
		countColumns: []string{},
	})
}

// eventColumns are the columns of the table, in the order of the event's fields.
var eventColumns = []columnOf[kmodquery.Event]{
	ofEvent("time", indexed, "Time of the event, as Unix time in seconds"),
	ofEvent("time_nanos", filtered, "The same time in nanoseconds"),
	ofEvent("uptime", filtered, "Seconds since the host booted, including time asleep"),
	ofEvent("boot_id", filtered, "The kernel's random id of this boot"),
	ofEvent("eid", indexed, "Number of the event in this host's store, assigned in ascending order and never reused"),
	ofEvent("stored_time", indexed, "When the recorder stored the event, as Unix time in seconds; NULL if an earlier version stored it"),
	ofEvent("event_name", indexed, "The kernel's name for the event: a system call (init_module, finit_module, delete_module, "+
		"sys_exit_init_module for one that returned late), a security hook (security_kernel_read_file, security_kernel_load_data), "+
		"a tracepoint (module_load, module_free, module_request), a difference between views of the kernel (module_present at the start, "+
		"module_hidden, module_unwitnessed for a load that no source observed, taint_reset), a source that was kept from observing "+
		"(sensor_tampered), or on macOS kextload, kextunload and the "+
		"decisions of policy, kext_allowed and kext_blocked"),
	ofEvent("source", indexed, "Source that observed the event, as in kernel_module_sensors"),
	ofEvent("load_id", indexed, "Shared by all events of one attempt to load or unload a module"),
	ofEvent("parent_load_id", filtered, "The load_id of the attempt inside which this one was made, of the load whose init made the kernel start this loader, of the load for which this finit_module waited, of the module_request that caused it, of the module that has renamed itself, or, if the views report the end of a load, of that load"),
	ofEvent("reports_load", filtered, "1 for the one event that stands for an attempt to load a module, which the signatures of loads take; 0 for the other events of such an attempt; NULL otherwise, and in rows that an earlier version stored"),
	ofEvent("name", indexed, "Name of the module"),
	ofEvent("path", indexed, "Path, across mounts, of the file that the module was read from"),
	ofEvent("type", filtered, "What the kernel reads the bytes for, such as kernel-module or firmware"),
	ofEvent("origin", filtered, "Where the bytes came from: file, memfd, deleted (a file without a name), memory (init_module) or kernel (init_module called inside the kernel)"),
	ofEvent("filesystem", filtered, "Type of the file's filesystem"),
	ofEvent("device", filtered, "Device number of the file's superblock, in the form of stat(2); differs from st_dev on btrfs and overlayfs"),
	ofEvent("inode", filtered, "Inode number of the file"),
	ofEvent("size", filtered, "Size of the module in bytes, as passed to the kernel"),
	ofEvent("mtime", filtered, "Last modification of the file's content, as Unix time in seconds"),
	ofEvent("ctime", filtered, "Last change of the file's inode, as Unix time in seconds"),
	ofEvent("sha256", indexed, "SHA-256 of the bytes passed to the kernel, which may be compressed"),
	ofEvent("image_sha256", filtered, "SHA-256 of the decompressed module; equals sha256 if the module is not compressed"),
	ofEvent("hash_source", filtered, "What was hashed: kernel (the bytes that the kernel read) or file (the file, read afterwards)"),
	ofEvent("signature_status", filtered, "The kernel's verdict on the module's signature: valid, unsigned, untrusted (no key for it), rejected or unknown"),
	ofEvent("signer", filtered, "Issuer that the module's signature names; proven only if signature_status is valid"),
	ofEvent("signature_key_id", filtered, "Id of the key that signed the module, as modinfo shows it"),
	ofEvent("signature_hash", filtered, "Hash algorithm of the signature"),
	ofEvent("version", filtered, "Version that the module declares"),
	ofEvent("srcversion", filtered, "Checksum of its source files that the module declares"),
	ofEvent("vermagic", filtered, "Kernel version and options that the module was built for"),
	ofEvent("license", filtered, "Licence that the module declares"),
	ofEvent("intree", filtered, "1 if the module declares that it was built with the kernel"),
	// Compared by osquery only, which shows "" if there were none and if they are unknown.
	ofEvent("params", local, "Parameters that were passed to the module; empty if there were none"),
	ofEvent("flags", filtered, "Flags of the system call"),
	ofEvent("taints", filtered, "Mask of the kernel taints that the module sets"),
	taintFlags(),
	ofEvent("result", filtered, "0 for success or the negative errno; NULL while unknown"),
	ofEvent("error", filtered, "Name of the errno in result"),
	ofEvent("verdict", filtered, "allow or deny: what macOS's policy, or an Endpoint Security client, decided on the kernel extension. An allowed load may fail"),
	ofEvent("pid", indexed, "Process that caused the event, in the host's pid namespace"),
	ofEvent("tid", filtered, "Thread that caused the event"),
	ofEvent("parent", filtered, "Process id of the process's parent"),
	ofEvent("process_name", filtered, "Command name of the thread, at most 15 bytes"),
	ofEvent("process_path", filtered, "Executable of the process; NULL for a kernel thread"),
	ofEvent("cmdline", filtered, "Command line of the process, with arguments joined by blanks; at most 4096 bytes"),
	ofEvent("cwd", filtered, "Working directory of the process"),
	ofEvent("uid", filtered, "User id of the process"),
	ofEvent("euid", filtered, "Effective user id of the process"),
	ofEvent("gid", filtered, "Group id of the process"),
	ofEvent("egid", filtered, "Effective group id of the process"),
	ofEvent("auid", filtered, "Login user id of the session, as in audit records; 4294967295 if there was no login"),
	ofEvent("session_id", filtered, "Audit session of the process; 4294967295 if there is none"),
	ofEvent("capabilities", filtered, "Effective capabilities of the process as a mask"),
	ofEvent("ancestors", filtered, "Ancestors of the process up to process 1, nearest first, at most 16, as a JSON array of pid, path, comm and uid"),
	ofEvent("requested_by", filtered, "The process whose module request made the kernel start this loader, as a JSON object: pid, path, comm, cmdline, uid, container_id and request"),
	ofEvent("container_id", indexed, "Container of the process, taken from its control group"),
	ofEvent("cgroup", filtered, "Control group of the process: its path in the default hierarchy, or in that of the pids controller if the default one is not used"),
	ofEvent("mnt_ns", filtered, "Inode number of the process's mount namespace"),
	ofEvent("pid_ns", filtered, "Inode number of the process's pid namespace"),
	ofEvent("user_ns", filtered, "Inode number of the process's user namespace"),
	ofEvent("team_id", filtered, "Apple team that signed the kernel extension"),
	ofEvent("cdhash", filtered, "Code directory hash of the kernel extension"),
	ofEvent("process_signing_id", filtered, "Signing id of the process on macOS"),
	ofEvent("process_team_id", filtered, "Apple team that signed the process"),
	ofEvent("collection", filtered, "Collection from which macOS loaded the kernel extension: boot, system, auxiliary, codeless or unknown"),
	ofEvent("boot_load", filtered, "1 for the load of a kernel extension that was reported within five minutes of the boot and that nothing in the log requested; 0 for other loads in the log"),
	ofEvent("authenticated_root", filtered, "1 if macOS only boots from a system volume with Apple's seal, 0 if not; of the events with a boot_load"),
	ofEvent("first_seen", filtered, "1 if this attempt is the first on this host with this name and hash, otherwise 0"),
	ofEvent("changed", filtered, "What differs from all earlier attempts to load a module of this name under the same kernel release on this host: hash (of the decompressed module; on macOS cdhash), signer (on macOS team_id) and path, separated by commas; none if nothing does; NULL if there were none"),
	ofEvent("count", filtered, "Number of attempts that this row stands for; denied attempts of one kind share a row"),
	ofEvent("missing", filtered, "Columns that apply and whose value could not be determined, separated by commas"),
	ofEvent("raw", hidden, "The record of a text source, unchanged"),
	ofEvent("reason", filtered, "For events found by comparing views of the kernel with each other and with the events, and for sensor_tampered: the observations behind them"),
	unprivileged(func(e *kmodquery.Event) *kmodquery.Event { return e }),
	cursorOf[kmodquery.Event](),
}
