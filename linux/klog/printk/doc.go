// Package printk reads what is said of kernel modules in logs: the messages of
// the kernel itself, from 4.x to 7.x, and those of the programs that load
// modules. It knows texts only: whether the kernel, or that program, really said
// them is for the caller to make sure of before it asks. It also reads the
// records of /dev/kmsg, which say who spoke.
//
// It is pure and compiles everywhere. It imports the root package only.
package printk
