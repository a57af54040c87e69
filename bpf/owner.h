/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which set of programs sends the records of a call. While one set replaces another,
 * both follow every call, but only the owner of a call sends its records.
 *
 * All sets share these maps. The first program that runs at the beginning of a call
 * stamps it with its beginning and with the set that owns new calls at that moment.
 * The other set uses that stamp. So both agree on owner and attempt_ns, whatever their
 * clocks say and whenever the owner changes. Only programs that run in a thread use
 * its stamps, so no two of them use a stamp at once.
 *
 * Include it after identity(), which distinguishes a thread from a later one with its
 * number.
 */
#ifndef KMODQUERY_OWNER_H
#define KMODQUERY_OWNER_H

/*
 * A younger stamp may be of the call that begins now; upgrade.go has the same
 * number. The owner changes only when the new set has been attached for longer, so
 * that an unused stamp of a call that it did not see begin is too old by then.
 */
#define STAMP_NS 500000000ULL

enum stamp_kind {
	STAMP_CALL = 1, /* a call, from its beginning */
	STAMP_HOOK,     /* what happens at one hook */
};

struct stamp {
	u64 identity;
	u64 begin_ns;
	u64 owner; /* the set that sends the records */
	u64 maker; /* the set that made the stamp */
	u64 taker; /* another set that has used it */
	u64 over;  /* enum stamp_over */
};

enum stamp_over {
	STAMP_OVER = 1, /* the call has returned */
	STAMP_RESUMED,  /* a call that was made from inside it has returned; no other call takes it */
};

struct {
	/* By kind and thread. Any user can make any number of them; they are of use for an instant. */
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, struct stamp);
} stamps SEC(".maps");

enum owner_index {
	OWNER_CURRENT, /* the set that owns what begins now */
	OWNER_OLDEST,  /* the set that it replaces, while that is attached; else the same set */
	OWNERS,
};

struct {
	/* Numbers of sets. Mapped into the reader, which changes them atomically. */
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, OWNERS);
	__type(key, u32);
	__type(value, u64);
} owners SEC(".maps");

static __always_inline u64 this_set(void)
{
	u32 zero = 0;
	struct reader_settings *set = bpf_map_lookup_elem(&settings, &zero);

	return set ? set->set : 0;
}

static __always_inline u64 owner_at(u32 index)
{
	u64 *set = bpf_map_lookup_elem(&owners, &index);

	return set ? *set : 0;
}

/*
 * Reports whether this set sends the records of what a set owns. The current owner does so for
 * each number but that of the set that it replaces: other sets are detached, and root can
 * write any number into a stamp.
 */
static __always_inline bool is_own(u64 owner)
{
	u64 set = this_set();

	return owner == set || (owner_at(OWNER_CURRENT) == set && owner != owner_at(OWNER_OLDEST));
}

/* Counts a loss in what a set owns. */
static __always_inline void lose(u64 owner)
{
	if (is_own(owner))
		count(COUNTER_LOST);
}

/* Counts a loss, which any user can cause, in what a set owns. */
static __always_inline void shed(u64 owner)
{
	if (is_own(owner))
		count(COUNTER_SHED);
}

static __always_inline u64 stamp_key(u32 kind)
{
	return (u64)kind << 32 | (u32)bpf_get_current_pid_tgid();
}

/* The current thread's last stamp of a kind, or NULL. */
static __always_inline struct stamp *find_stamp(u32 kind)
{
	u64 key = stamp_key(kind);
	struct stamp *stamp = bpf_map_lookup_elem(&stamps, &key);

	return stamp && stamp->identity == identity() ? stamp : NULL;
}

/*
 * Stamps what the current thread begins, unless another set has just done so, and
 * returns its owner. If owner is 0, that is the set that owns what begins now. With
 * any_age, the other set's stamp may be old, as long as its call is not over.
 */
__noinline u64 stamp_event(u32 kind, u64 owner, u32 any_age)
{
	struct stamp *stamp = find_stamp(kind);
	u64 now = bpf_ktime_get_boot_ns();
	u64 key = stamp_key(kind);
	u64 set = this_set();

	if (stamp && !stamp->over && stamp->maker != set && stamp->taker != set &&
	    (any_age || now - stamp->begin_ns < STAMP_NS)) {
		stamp->taker = set;
		return stamp->owner;
	}
	struct stamp made = {
		.identity = identity(),
		.begin_ns = now,
		.owner = owner ? owner : owner_at(OWNER_CURRENT),
		.maker = set,
	};
	if (stamp)
		*stamp = made;
	else
		bpf_map_update_elem(&stamps, &key, &made, BPF_ANY);
	return made.owner;
}

/* The time of the current thread's last stamp of a kind. */
static __always_inline u64 stamped_ns(u32 kind)
{
	struct stamp *stamp = find_stamp(kind);

	return stamp ? stamp->begin_ns : bpf_ktime_get_boot_ns();
}

/*
 * Sets the owner and the beginning of an attempt that begins. If the hook is not the
 * call's entry, another set may have seen that at any time before.
 */
static __always_inline void own_attempt(struct attempt *attempt, bool is_entry)
{
	attempt->owner = stamp_event(STAMP_CALL, 0, !is_entry);
	attempt->begin_ns = stamped_ns(STAMP_CALL);
}

/*
 * The owner of what happens at a hook that can be reached outside of any attempt.
 * A set that was attached in the midst of a call does not have its attempt; the
 * call's stamp says who owns it.
 */
static __always_inline u64 owner_of(struct attempt *attempt)
{
	struct stamp *call = find_stamp(STAMP_CALL);
	u64 owner = 0;

	if (attempt)
		owner = attempt->owner;
	else if (call && call->over != STAMP_OVER)
		owner = call->owner;
	u64 stamped = stamp_event(STAMP_HOOK, owner, 0);

	return attempt ? owner : stamped;
}

/* Notes that the thread's call returns, and returns its owner. */
static __always_inline u64 own_return(struct attempt *attempt)
{
	u64 owner = owner_of(attempt);
	struct stamp *call = find_stamp(STAMP_CALL);

	/* A set that did not see the outer call begin does not know that this return is of the inner one. */
	if (call && (call->over != STAMP_RESUMED || (attempt && attempt->begin_ns == call->begin_ns)))
		call->over = STAMP_OVER;
	return owner;
}

/*
 * Ends the thread's innermost attempt. If it was made from inside another call, the stamp is
 * of that one again, for a set that was attached in the midst of it.
 */
static __always_inline void end_call(struct thread *thread)
{
	struct attempt *outer = attempt_at(thread, thread->depth - 1);
	struct stamp *call = find_stamp(STAMP_CALL);

	if (outer && call) {
		call->owner = outer->owner;
		call->begin_ns = outer->begin_ns;
		call->over = STAMP_RESUMED;
	}
	end_attempt(thread);
}

#endif
