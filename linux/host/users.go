//go:build linux

package host

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxPasswd bounds the bytes of /etc/passwd that are read.
const maxPasswd = 1 << 20

// Users returns a function that returns the name of a user in /etc/passwd, or "". It reads the
// file once, and not at all if that may block: a pipe, or a file that a program or another host
// serves.
func Users() func(uid int64) string {
	file, err := OpenFile("/proc/self", "/etc/passwd", nil)
	if err != nil {
		return func(int64) string { return "" }
	}
	defer file.Close()
	return usersOf(file)
}

// usersOf reads a file in the format of passwd(5). As in the C library, the first line with
// a user counts.
func usersOf(file *os.File) func(uid int64) string {
	names := map[int64]string{}
	lines := bufio.NewScanner(io.LimitReader(file, maxPasswd))
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), ":", 4)
		if len(fields) < 4 || fields[0] == "" || fields[0][0] == '#' {
			continue
		}
		uid, err := strconv.ParseUint(fields[2], 10, 32)
		if _, isKnown := names[int64(uid)]; err == nil && !isKnown {
			names[int64(uid)] = fields[0]
		}
	}
	return func(uid int64) string { return names[uid] }
}
