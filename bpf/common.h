/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What module.bpf.c and locked.bpf.c have in common: the maps through which they
 * speak to the reader, and how a thread's attempts are kept. Each defines its
 * own struct attempt before it includes this.
 */
#ifndef KMODQUERY_COMMON_H
#define KMODQUERY_COMMON_H

#define MNT_INTERNAL 0x4000   /* include/linux/mount.h */
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */
#define EPERM 1
#define RECORDS_SIZE (16 << 20)
#define DEPTH 4               /* loads made from inside a load, followed this far */

enum kernel_read_file_id { READING_MODULE = 2 };
enum kernel_read_file_id___compressed { READING_MODULE_COMPRESSED = 7 }; /* from 7.2 */
enum kernel_load_data_id { LOADING_MODULE = 2 };

/* The attempts that one thread has under way, the innermost last. */
struct thread {
	u64 identity; /* tells a thread from a later one with its number: its start_time, where it can be read */
	u64 depth;    /* may count on beyond DEPTH, so that every return finds its own */
	struct attempt attempt[DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RECORDS_SIZE);
} records SEC(".maps");

struct {
	/* Not an LRU: a flood of short calls would evict a load under way. */
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	/*
	 * Mapped into the reader: a bpf(2) call to read it would keep kprobes from
	 * running on that processor meanwhile.
	 */
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

struct {
	/* Mapped into the reader, like the counters. */
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct reader_settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct denied_key);
	__type(value, struct denied_calls);
} denied SEC(".maps");

static __always_inline void count(u32 counter)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

/*
 * Wakes the reader always: the kernel does so by itself only where everything
 * before was released, and the reader releases later than it reads.
 */
static __always_inline void submit(void *record)
{
	bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
}

/*
 * Reports whether the ring must be left to what not any user can cause: the rest
 * of it is for loads.
 */
static __always_inline bool is_crowded(void)
{
	return bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA) > RECORDS_SIZE / 2;
}

/* The attempt at a depth, the outermost being 1, or NULL where it is not kept. */
static __always_inline struct attempt *attempt_at(struct thread *thread, u64 depth)
{
	if (depth == 0 || depth > DEPTH)
		return NULL;
	return &thread->attempt[(depth - 1) & (DEPTH - 1)];
}

static __always_inline struct attempt *innermost(struct thread *thread)
{
	return thread ? attempt_at(thread, thread->depth) : NULL;
}

static __always_inline void end_attempt(struct thread *thread)
{
	u32 tid = bpf_get_current_pid_tgid();

	if (thread->depth > 1) {
		thread->depth--;
		return;
	}
	thread->depth = 0; /* it may be kept elsewhere */
	bpf_map_delete_elem(&threads, &tid);
}

/*
 * Counts a call that was refused before the kernel took a byte, which any user
 * can make as often as they like. Reports whether to send a record of it: of the
 * first of its kind in each epoch.
 */
static __always_inline bool count_denied(struct denied_key *key)
{
	struct denied_calls *calls = bpf_map_lookup_elem(&denied, key);
	u32 zero = 0;
	struct reader_settings *set = bpf_map_lookup_elem(&settings, &zero);

	if (!calls) {
		struct denied_calls none = {.since_ns = bpf_ktime_get_boot_ns()};

		bpf_map_update_elem(&denied, key, &none, BPF_NOEXIST);
		calls = bpf_map_lookup_elem(&denied, key);
	}
	if (!calls || !set) {
		count(COUNTER_DENIED + key->call);
		return 0;
	}
	__sync_fetch_and_add(&calls->count, 1);
	if (calls->epoch == set->epoch || is_crowded())
		return 0;
	calls->epoch = set->epoch;
	return 1;
}

static __always_inline bool is_module_read(u32 id)
{
	if (bpf_core_enum_value_exists(enum kernel_read_file_id___compressed, READING_MODULE_COMPRESSED) &&
	    id == bpf_core_enum_value(enum kernel_read_file_id___compressed, READING_MODULE_COMPRESSED))
		return 1;
	return id == bpf_core_enum_value(enum kernel_read_file_id, READING_MODULE);
}

static __always_inline bool is_module_data(u32 id)
{
	return id == bpf_core_enum_value(enum kernel_load_data_id, LOADING_MODULE);
}

#endif
