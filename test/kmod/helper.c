//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A module whose init has the kernel start /run/kmodquery-helper, and waits until it ends.
 * The init fails with ENODEV if the program does not succeed.
 */
#include "module.h"

extern int call_usermodehelper(const char *path, char **argv, char **envp, int wait);

#define UMH_WAIT_PROC 2

/* A test that forges a line of kallsyms replaces this name with one of the same length. */
__attribute__((noinline)) int start_the_program_and_wait_for_it(void)
{
	static char path[] = "/run/kmodquery-helper";
	static char *argv[] = { path, 0 };
	static char *envp[] = { "PATH=/sbin:/usr/sbin:/bin:/usr/bin", 0 };

	return call_usermodehelper(path, argv, envp, UMH_WAIT_PROC);
}

int init_module(void)
{
	return start_the_program_and_wait_for_it() ? -19 : 0; /* -ENODEV */
}

void cleanup_module(void)
{
}
