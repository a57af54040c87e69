#!/bin/sh
# Installs kmodquery on this Mac as README.md says, loads an extension of Apple, and keeps the
# rows and what macOS itself says of them in a folder. It removes kmodquery again.
#
#   sudo sh packaging/macos/capture.sh BINARY FOLDER
#
# The folder then has the log's messages of the last minutes about extensions, the loaded
# extensions and KextPolicy: read it before you give it away.
set -eu
binary=$1 folder=$2
here=$(dirname "$0")
label=com.kmodquery.record
program=/usr/local/libexec/kmodquery.ext
service=/Library/LaunchDaemons/$label.plist
state=/var/lib/kmodquery

if [ "$(uname)" != Darwin ] || [ "$(id -u)" != 0 ]; then
	echo "capture.sh: run it as root on a Mac" >&2
	exit 1
fi
for path in "$program" "$service" "$state"; do
	if [ -e "$path" ]; then
		echo "capture.sh: $path exists; remove kmodquery first" >&2
		exit 1
	fi
done
mkdir -p "$folder"

remove() {
	launchctl bootout "system/$label" || true
	cp /var/log/kmodquery.log "$folder/kmodquery.log" || true
	rm -rf "$program" "$service" "$state" /var/log/kmodquery.log
	[ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID" "$folder"
}
trap remove EXIT

# keep runs a command and keeps its output and its exit status. A failure is a result too.
keep() {
	name=$1
	shift
	status=0
	"$@" >"$folder/$name" 2>"$folder/$name.err" || status=$?
	[ "$status" = 0 ] || echo "exit status $status" >>"$folder/$name.err"
	[ -s "$folder/$name.err" ] || rm "$folder/$name.err"
}

install -d -o root -g wheel -m 0755 /usr/local/libexec
install -o root -g wheel -m 0755 "$binary" "$program"
install -o root -g wheel -m 0644 "$here/$label.plist" "$service"
launchctl bootstrap system "$service"

# The first query waits until the service records.
"$program" query "SELECT source, state, reason FROM kernel_module_sensors" >"$folder/sensors-before.txt"

# Extensions that a Mac has and has not loaded, as a rule.
for id in com.apple.filesystems.ntfs com.apple.filesystems.udf com.apple.filesystems.cd9660; do
	keep "load-$id" kmutil load -b "$id"
	keep "unload-$id" kmutil unload -b "$id"
done

for table in events findings inventory sensors; do
	"$program" query --format json "SELECT * FROM kernel_module_$table" >"$folder/kernel_module_$table.json"
done
keep raw.json "$program" query --format json \
	"SELECT eid, source, event_name, raw FROM kernel_module_events WHERE source IN ('endpoint_security', 'unified_log')"
keep sw_vers sw_vers
keep uname uname -a
keep csrutil csrutil status
keep authenticated-root csrutil authenticated-root status
keep showloaded kmutil showloaded --list-only --no-kernel-components
for collection in boot sys aux codeless; do
	keep "showloaded-$collection" kmutil showloaded --list-only --no-kernel-components --collection "$collection"
done
keep log.ndjson log show --last 15m --info --style ndjson --predicate \
	'process == "kernelmanagerd" OR process == "kernelmanager_helper" OR process == "syspolicyd" OR (process == "kernel" AND eventMessage CONTAINS[c] "kext")'
keep kextpolicy.sql sqlite3 /var/db/SystemPolicyConfiguration/KextPolicy .dump
