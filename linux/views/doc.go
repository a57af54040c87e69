// Package views reads and joins the views of the kernel: all places in which the kernel
// shows its modules. A rootkit removes its module from some of these places, and rarely
// from all.
//
// The kernel writes the views, but a module chooses its own name: up to 55 arbitrary
// bytes. The package imports the root package only, works on any copy of /proc and /sys,
// and compiles on all systems.
//
// # Order of the views
//
// While a module is loaded, the kernel first allocates its memory (vmallocinfo). Then the
// module appears in the kernel's list, kallsyms and ftrace at once, then in btf, then in
// sysfs. Then its init runs. While a module is unloaded, it disappears from btf and ftrace,
// then from sysfs, then from the list and kallsyms at once. Its memory is freed after an
// RCU grace period.
//
// At any one moment, the list therefore shows every module that a view other than
// vmallocinfo shows. But two views are never read at the same moment. The list is therefore
// read before and after all other views, and a module that contradicts it is a suspect
// until [Views.Confirm] has checked it again.
package views
