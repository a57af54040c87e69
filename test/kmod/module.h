/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a module needs to be one, without the headers of the kernel that will
 * load it: Build fills in what differs between kernels.
 */
#ifndef KMODQUERY_TEST_MODULE_H
#define KMODQUERY_TEST_MODULE_H

int init_module(void);
void cleanup_module(void);

/*
 * Build cuts it to the kernel's struct module, writes the name into it and
 * moves the two pointers' relocations to their places.
 */
struct {
	int (*init)(void);
	void (*exit)(void);
	char rest[8192 - 16];
} this_module __attribute__((section(".gnu.linkonce.this_module"), used, aligned(64))) = {
	.init = init_module,
	.exit = cleanup_module,
};

static const char license[] __attribute__((section(".modinfo"), used)) = "license=GPL";

#endif
