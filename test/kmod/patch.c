//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The module filter for kernels whose ftrace cannot hook the BPF ring buffer: it writes a
 * jump over the beginning of bpf_ringbuf_submit. So only the records that are submitted
 * vanish. For amd64.
 */
#include "module.h"

/* Build sets these. */
volatile unsigned long victim = 1;   /* the process */
volatile unsigned long pid_tgid = 1; /* address of bpf_get_current_pid_tgid */
volatile unsigned long submit = 1;   /* of bpf_ringbuf_submit */
volatile unsigned long discard = 1;  /* of bpf_ringbuf_discard */
volatile unsigned long poke = 1;     /* of text_poke_kgdb */
volatile unsigned long work = 1;     /* offset in struct bpf_ringbuf */

#define BUSY (1U << 31)
#define PAGE 4096UL
#define JUMP 5

extern int stop_machine(int (*function)(void *), void *data, const void *cpus);
extern _Bool irq_work_queue(void *work);

static unsigned char before[JUMP], jump[JUMP] = { 0xe9 };

/* Does what bpf_ringbuf_submit does, but for the victim what bpf_ringbuf_discard does. */
static void instead(unsigned int *sample, unsigned long flags)
{
	unsigned long (*current_pid_tgid)(void) = (unsigned long (*)(void))pid_tgid;
	unsigned int *header = sample - 2; /* the length, and the number of the page */
	unsigned long ring = ((unsigned long)header & -PAGE) - header[1] * PAGE;

	if (current_pid_tgid() >> 32 == victim) {
		((void (*)(void *, unsigned long))discard)(sample, flags);
		return;
	}
	__atomic_exchange_n(header, header[0] ^ BUSY, __ATOMIC_SEQ_CST);
	irq_work_queue((void *)(ring + work));
}

static int write(void *code)
{
	((void *(*)(void *, const void *, unsigned long))poke)((void *)submit, code, JUMP);
	return 0;
}

int init_module(void)
{
	int distance = (long)instead - (long)submit - JUMP;

	__builtin_memcpy(before, (void *)submit, JUMP);
	__builtin_memcpy(jump + 1, &distance, sizeof(distance));
	return stop_machine(write, jump, 0); /* no other code runs meanwhile */
}

void cleanup_module(void)
{
	stop_machine(write, before, 0);
}
