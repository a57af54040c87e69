/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The minimal content of a module, without the headers of the kernel that will load it.
 * Build fills in the values that differ between kernels.
 */
#ifndef KMODQUERY_TEST_MODULE_H
#define KMODQUERY_TEST_MODULE_H

/*
 * Tracers can attach to its init, as to functions of real modules: the compiler leaves
 * room at the beginning, and a section has its address.
 */
#ifdef __aarch64__
int init_module(void) __attribute__((patchable_function_entry(4, 2)));
#else
int init_module(void);
asm(".pushsection __mcount_loc, \"a\"; .quad init_module + 4; .popsection"); /* 4: behind its endbr64 */
#endif
void cleanup_module(void);

/*
 * Build sets its size to that of the kernel's struct module, writes the name into it
 * and moves the relocations of the two pointers.
 */
struct {
	int (*init)(void);
	void (*exit)(void);
	char rest[8192 - 16];
} this_module __attribute__((section(".gnu.linkonce.this_module"), used, aligned(64))) = {
	.init = init_module,
	.exit = cleanup_module,
};

#ifdef __aarch64__
/* Sections that an arm64 kernel requires and fills itself. */
asm(".pushsection .plt, \"ax\", %nobits; .skip 1; .popsection\n"
    ".pushsection .init.plt, \"ax\", %nobits; .skip 1; .popsection\n"
    ".pushsection .text.ftrace_trampoline, \"ax\", %nobits; .skip 1; .popsection\n"
    ".pushsection .init.text.ftrace_trampoline, \"ax\", %nobits; .skip 1; .popsection");
#endif

static const char license[] __attribute__((section(".modinfo"), used)) = "license=GPL";

#endif
