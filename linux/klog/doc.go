// Package klog has the sources that read the kernel's log: the systemd journal,
// /dev/kmsg, and the files of a syslog daemon. Each emits events for the messages about
// modules. They satisfy the Source interface of package collectors without importing it.
// The package imports the root package, internal/source, internal/progress,
// internal/cmdout, linux/host, linux/logfile and its own subpackage printk, which parses
// messages.
package klog
