// Package views reads what the kernel shows of its modules, in every place where
// it does, and joins it. A module that hides takes itself out of some of these
// places, and hardly out of all.
//
// What is read is the kernel's, but names are the modules' own: any bytes, up to
// 55. The package imports the root package only, works on any copy of /proc and
// /sys, and compiles everywhere.
//
// # When a module is where
//
// While it is loaded, it comes into its memory (vmallocinfo), then at once into
// the kernel's list, kallsyms and ftrace, then into btf, then into sysfs; then
// its init runs. While it is unloaded, it goes out of btf and ftrace, out of
// sysfs, and then at once out of the list and kallsyms; its memory goes after
// all others had time to look away (RCU). So, in any one moment, every view but
// vmallocinfo shows nothing that the list does not show. But no two views are
// read in one moment, so the list is read before and after all others, and what
// contradicts it is a suspect until [Views.Confirm] has looked again.
package views
