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
//
// # Who can write the views
//
// A module must not cause a report of another one that never was. Code in the kernel can
// write everything. What a view proves depends on what a module can write with less:
//
//   - modules (/proc/modules): the kernel, a line for each module, with the name that the
//     module has.
//   - sysfs and btf: the kernel, a folder or a file for each module. Only code in the kernel
//     can add another one.
//   - kallsyms and ftrace: the kernel, a line for each symbol. A module's file chooses the
//     names of its symbols, which can look like lines about other modules in both views.
//   - vmallocinfo: the kernel, a line for each region of memory, without a module's name. It
//     names the function that allocated the region, so a module with forged symbols that
//     allocates memory can write lines.
//
// kallsyms follows the list. If it names a module that the list lacks, the line is forged, or
// the list is filtered. kallsyms also prints every symbol of every listed module, so it shows
// those that forge lines of other views: they have blanks or newlines. While it shows either,
// [Views.Modules] omits the modules that only kallsyms and ftrace show, and [Views.Status]
// says so; the memory of such a module is reported without a name. Otherwise a module that
// only ftrace shows is no forgery. That needs no address, which the kernel may hide.
package views
