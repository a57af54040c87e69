//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A module whose init loads another one through the kernel's own init_module, and then
 * fails, like rootkits whose outer module is only a wrapper.
 */
#include "module.h"

/* Build sets these. */
volatile unsigned long sys_init_module = 1; /* address of the system call's function */
volatile unsigned long image = 1;           /* user address of the other module */
volatile unsigned long len = 1;
volatile unsigned long params = 1;          /* user address */

#ifdef __aarch64__
struct pt_regs {
	unsigned long di, si, dx, regs[28], sp, pc, pstate, rest[8]; /* x0, x1, x2 */
};
#else
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#endif

static struct pt_regs regs;

int init_module(void)
{
	long (*call)(struct pt_regs *) = (long (*)(struct pt_regs *))sys_init_module;

	regs.di = image;
	regs.si = len;
	regs.dx = params;
	call(&regs);
	return -19; /* -ENODEV */
}

void cleanup_module(void)
{
}
