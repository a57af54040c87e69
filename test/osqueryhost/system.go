package osqueryhost

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processRows reads the processes from /proc as osquery does on Linux
// (linux/processes.cpp). On other systems there are none. A process that ends meanwhile is
// left out, and what may not be read is empty.
func processRows(proc string) (rows []map[string]string) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		if _, err := strconv.ParseUint(entry.Name(), 10, 32); err != nil {
			continue
		}
		if r := processRow(filepath.Join(proc, entry.Name())); r != nil {
			r["pid"] = entry.Name()
			rows = append(rows, r)
		}
	}
	return rows
}

func processRow(dir string) map[string]string {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return nil
	}
	r := map[string]string{}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		words := strings.Fields(value)
		switch {
		case key == "Name":
			r["name"] = strings.TrimSpace(value)
		case key == "State" && len(words) > 0:
			r["state"] = words[0]
		case key == "PPid" && len(words) > 0:
			r["parent"] = words[0]
		case key == "Uid" && len(words) > 1:
			r["uid"], r["euid"] = words[0], words[1]
		case key == "Gid" && len(words) > 1:
			r["gid"], r["egid"] = words[0], words[1]
		}
	}
	r["path"], _ = os.Readlink(filepath.Join(dir, "exe"))
	cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	r["cmdline"] = strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
	return r
}

// userRows reads the local accounts (linux/users.cpp).
func userRows(passwd string) (rows []map[string]string) {
	content, err := os.ReadFile(passwd)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(fields) != 7 {
			continue
		}
		rows = append(rows, map[string]string{
			"username": fields[0], "uid": fields[2], "gid": fields[3], "uid_signed": signed(fields[2]), "gid_signed": signed(fields[3]),
			"description": fields[4], "directory": fields[5], "shell": fields[6],
		})
	}
	return rows
}

// signed returns a 32-bit ID as a signed number.
func signed(id string) string {
	v, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return ""
	}
	return strconv.FormatInt(int64(int32(v)), 10)
}
