// Package logfile reads log files that are written to, renamed and truncated meanwhile. The
// packages linux/audit and linux/klog use it. It imports internal/cmdout only.
package logfile
