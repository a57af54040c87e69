//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A module whose init clears bits of the kernel's taint, as rootkits do to hide
 * their load, and then fails.
 */
#include "module.h"

/* Build sets these. */
volatile unsigned long tainted_mask = 1; /* its address (kernel/panic.c) */
volatile unsigned long bits = 1;         /* to clear */

int init_module(void)
{
	*(unsigned long *)tainted_mask &= ~bits;
	return -19; /* -ENODEV */
}

void cleanup_module(void)
{
}
