//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A module whose init makes the kernel read a firmware file. */
#include "module.h"

extern int request_firmware(const void **firmware, const char *name, void *device);
extern void release_firmware(const void *firmware);

int init_module(void)
{
	const void *firmware;
	int err = request_firmware(&firmware, "kmodquery-test.bin", 0);

	if (!err)
		release_firmware(firmware);
	return err;
}

void cleanup_module(void)
{
}
