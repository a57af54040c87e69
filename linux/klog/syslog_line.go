package klog

import (
	"regexp"
	"strconv"
	"time"
)

// A syslogLine is a line of a log file that claims to be the kernel's. Anybody
// can write one, through logger(1).
type syslogLine struct {
	text string
	at   time.Duration // of printk's clock; -1 where the line does not say
}

// kernelTag is the tag of the kernel's messages, behind a time and a host, which
// rsyslog, syslog-ng, sysklogd and busybox write in ways of their own, and what
// printk puts before a text: the time, and the caller from 5.1 where the kernel
// says it. In RFC 5424 the tag has no colon and three dashes follow.
var kernelTag = regexp.MustCompile(`^[^\x00-\x1f]{0,200}? kernel(?:(?:\[[0-9]*\])?:| - - -) (?:\[ *([0-9]{1,10})\.([0-9]{6})\](?:\[ *[TC][0-9]+\])? )?(.*)$`)

// parseSyslogLine reads a line of a file that a syslog daemon writes.
func parseSyslogLine(b []byte) (syslogLine, bool) {
	found := kernelTag.FindSubmatch(b)
	if found == nil {
		return syslogLine{}, false
	}
	l := syslogLine{text: string(found[3]), at: -1}
	if len(found[1]) > 0 {
		// They are digits, and few enough.
		seconds, _ := strconv.ParseInt(string(found[1]), 10, 64)
		micros, _ := strconv.ParseInt(string(found[2]), 10, 64)
		l.at = time.Duration(seconds)*time.Second + time.Duration(micros)*time.Microsecond
	}
	return l, true
}
