//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A module with a parameter that sets the module's own state, and one that sets its
 * own name, as rootkits do to seem to be another module. The kernel does not
 * list a module whose state is UNFORMED (3), which rootkits use to hide, and
 * executes BUG() if the module's initstate is read. LIVE (0) shows the module
 * again, so that it can be unloaded.
 */
#include "module.h"

/* Build sets this. */
volatile unsigned long module_mutex = 1; /* its address (kernel/module) */

extern void mutex_lock(void *mutex);
extern void mutex_unlock(void *mutex);

/* The kernel's struct kernel_param_ops. */
struct param_ops {
	unsigned int flags;
	int (*set)(const char *value, const void *param);
	int (*get)(char *buffer, const void *param);
	void (*free)(void *arg);
};

/* The kernel's struct kernel_param. */
struct param {
	const char *name;
	const void *mod;
	const struct param_ops *ops;
	const unsigned short permissions;
	signed char level;
	unsigned char flags;
	void *arg;
};

static int set_state(const char *value, const void *param)
{
	/*
	 * The kernel reads the state twice while it writes the module's line of
	 * /proc/modules, and executes BUG() if the second read yields UNFORMED
	 * (module_flags). It holds the mutex meanwhile.
	 */
	mutex_lock((void *)module_mutex);
	*(volatile int *)&this_module = value[0] - '0'; /* struct module begins with the state */
	mutex_unlock((void *)module_mutex);
	return 0;
}

#define NAME_OFFSET 24 /* of name in struct module, after the state and the list's node */
#define NAME_LEN 56

static int set_name(const char *value, const void *param)
{
	volatile char *name = (char *)&this_module + NAME_OFFSET;
	int i;

	mutex_lock((void *)module_mutex);
	for (i = 0; i < NAME_LEN - 1 && value[i] != 0; i++)
		name[i] = value[i];
	name[i] = 0;
	mutex_unlock((void *)module_mutex);
	return 0;
}

static const struct param_ops ops = { .set = set_state };
static const struct param_ops name_ops = { .set = set_name };

static const struct param state __attribute__((section("__param"), used, aligned(8))) = {
	.name = "state",
	.mod = &this_module,
	.ops = &ops,
	.permissions = 0200,
};

static const struct param name __attribute__((section("__param"), used, aligned(8))) = {
	.name = "name",
	.mod = &this_module,
	.ops = &name_ops,
	.permissions = 0200,
};

int init_module(void)
{
	return 0;
}

void cleanup_module(void)
{
}
