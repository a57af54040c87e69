// Package printk parses log messages about kernel modules: those of the kernel, from 4.x
// to 7.x, and those of the programs that load modules. It parses texts only. The caller
// must verify that a message is from the kernel, or from that program. The package also
// parses the records of /dev/kmsg, which tell whether the kernel logged them.
//
// It is pure and compiles everywhere. It imports the root package only.
package printk
