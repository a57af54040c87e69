/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps that module.bpf.c and locked.bpf.c share with the reader, and a thread's
 * attempts. Each file defines IMAGES_SIZE and its own struct attempt before it
 * includes this.
 */
#ifndef KMODQUERY_COMMON_H
#define KMODQUERY_COMMON_H

#define MNT_INTERNAL 0x4000   /* include/linux/mount.h */
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */
#define EPERM 1
#define RECORDS_SIZE (16 << 20)
#define DEPTH 4               /* of loads made from inside loads */

enum kernel_read_file_id { READING_MODULE = 2 };
enum kernel_read_file_id___compressed { READING_MODULE_COMPRESSED = 7 }; /* from 7.2 */
enum kernel_load_data_id { LOADING_MODULE = 2 };

/* The attempts that a thread has under way, the innermost last. */
struct thread {
	u64 identity; /* distinguishes a thread from a later one with its number: its start_time, if that can be read */
	u64 depth;    /* may exceed DEPTH, so that every return finds its own attempt */
	struct attempt attempt[DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RECORDS_SIZE);
} records SEC(".maps");

struct {
	/* Separate, so that images never crowd out records. */
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, IMAGES_SIZE);
} images SEC(".maps");

struct {
	/* Not an LRU: a flood of short calls would evict a load under way. */
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	/*
	 * Mapped into the reader, because kprobes do not run on a processor while it
	 * serves a bpf(2) call.
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

struct {
	/* By processor, of which load.go sets the number. Mapped into the reader, like the counters. */
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct record_counts);
} sent SEC(".maps");

static __always_inline void count(u32 counter)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

/*
 * Numbers a record that is about to be sent, and returns where to store the number once
 * it is in the ring, or NULL. A record that the ring does not take leaves no hole.
 *
 * Each processor counts for itself: an atomic addition that returns its result needs
 * Linux 5.12. No function that other code could hook is called to count: the kernel
 * inlines the look-up in an array, and whatever processor is named, a record that
 * vanishes leaves a hole. A program that is preempted here may repeat a number, but
 * never skips one.
 */
static __always_inline u64 *number_record(struct record_header *header)
{
	u32 kind = header->kind % RECORD_KINDS;
	u32 cpu = bpf_get_smp_processor_id();
	struct record_counts *counts = bpf_map_lookup_elem(&sent, &cpu);

	if (!counts) {
		cpu = 0;
		counts = bpf_map_lookup_elem(&sent, &cpu);
	}
	header->cpu = cpu;
	header->number = counts ? counts->sent[kind] + 1 : 0;
	return counts ? &counts->sent[kind] : NULL;
}

/*
 * Sends a record. Always wakes the reader: by default the kernel wakes it only if all
 * earlier records were released, and the reader releases later than it reads.
 */
static __always_inline void submit(void *record)
{
	u64 *counter = number_record(record);
	u64 number = ((struct record_header *)record)->number;

	bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
	if (counter)
		*counter = number; /* after the record is in the ring: the reader relies on it */
}

static __always_inline void fill_header(struct record_header *header, u32 kind, struct thread *thread);

/* Begins a record, with its header. Returns NULL, and counts a loss, if the ring has no room. */
static __always_inline void *begin_record(u32 kind, struct thread *thread, u64 size)
{
	struct record_header *header = bpf_ringbuf_reserve(&records, size, 0);

	if (!header) {
		count(COUNTER_LOST);
		return NULL;
	}
	fill_header(header, kind, thread);
	return header;
}

/*
 * Reports whether the ring buffer is half full. The other half is for loads:
 * records that unprivileged users can cause are dropped.
 */
static __always_inline bool is_crowded(void)
{
	return bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA) > RECORDS_SIZE / 2;
}

/* Returns the attempt at a depth, the outermost being 1, or NULL if it is not kept. */
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

/* Begins the record of a module, of which nothing is known but its attempt's verdict. */
static __always_inline struct module_record *begin_module(u32 kind, struct thread *thread, struct attempt *attempt)
{
	struct module_record *record = begin_record(kind, thread, sizeof(*record));

	if (!record)
		return NULL;
	record->taints = 0;
	record->params_len = NOT_READ;
	record->verified = attempt ? attempt->verified : 0;
	record->verdict = attempt ? attempt->verdict : 0;
	record->sig_ok = SIG_OK_UNKNOWN;
	record->name[0] = 0;
	record->version[0] = 0;
	record->srcversion[0] = 0;
	return record;
}

/* Begins the record of a call that has returned, without its strings. */
static __always_inline struct system_call_record *begin_call(u32 call, s64 result, struct thread *thread,
							     struct attempt *attempt)
{
	struct system_call_record *record = begin_record(RECORD_SYSTEM_CALL, thread, sizeof(*record));

	if (!record)
		return NULL;
	record->result = result;
	record->flags = attempt ? attempt->flags : 0;
	record->size = attempt ? attempt->size : 0;
	record->call = call;
	record->params_len = NOT_READ;
	record->name_len = NOT_READ;
	record->verified = attempt ? attempt->verified : 0;
	record->verdict = attempt ? attempt->verdict : 0;
	return record;
}

static __always_inline void end_attempt(struct thread *thread)
{
	u32 tid = bpf_get_current_pid_tgid();

	if (thread->depth > 1) {
		thread->depth--;
		return;
	}
	thread->depth = 0; /* it may be in another map */
	bpf_map_delete_elem(&threads, &tid);
}

/*
 * Counts a call that was refused before the kernel took a byte. Any user can make
 * any number of them, so a record is sent only of the first of its kind in each
 * epoch. Reports whether to send one.
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
