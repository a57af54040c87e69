//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Hooks on the functions through which every kernel module comes and goes.
 * Nothing here runs for any other system call.
 */
#include "kernel.h"
#include "record.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define MNT_INTERNAL 0x4000 /* include/linux/mount.h */
#define DEPTH 4             /* loads made from inside a load, followed this far */

enum kernel_read_file_id { READING_MODULE = 2 };
enum kernel_read_file_id___compressed { READING_MODULE_COMPRESSED = 7 }; /* from 7.2 */
enum kernel_load_data_id { LOADING_MODULE = 2 };

/* One system call that loads or unloads, from its entry to its return. */
struct attempt {
	u64 begin_ns;
	u64 regs;   /* where its arguments stand; 0 where its entry was not seen */
	u64 params; /* user address */
	u64 name;   /* user address, delete_module */
	u64 size;
	u64 flags;
	u32 taken;  /* the kernel was handed a module */
	u32 live;   /* its module_load was seen: code of the module may run */
};

/* The attempts that one thread has under way, the innermost last. */
struct thread {
	u64 start_time; /* tells a thread from a later one with its number */
	u64 depth;      /* counts on beyond DEPTH, so that every return finds its own */
	struct attempt attempt[DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
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

/* bpf2go emits a Go type for what a variable or map refers to. */
const struct system_call_record *unused_system_call_record __attribute__((unused));
const struct module_record *unused_module_record __attribute__((unused));
const struct file_record *unused_file_record __attribute__((unused));
const enum counter *unused_counter __attribute__((unused));

static __always_inline void count(u32 counter)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

/* The thread's attempts, or NULL where it has none under way. */
static __always_inline struct thread *find_thread(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);

	if (!thread || thread->depth == 0 || thread->start_time != BPF_CORE_READ(task, start_time))
		return NULL;
	return thread;
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

/*
 * Begins an attempt and returns it, or NULL where it cannot be kept. All system
 * calls of a thread find their registers at one address, the top of its kernel
 * stack. So the same address again means that a return was not seen, unless
 * code of the module may be calling from inside the kernel; another address,
 * or none, is a load inside a load.
 */
static __always_inline struct attempt *begin_attempt(u64 regs)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread = find_thread();
	struct attempt *attempt;

	if (!thread) {
		struct thread fresh = {};

		fresh.start_time = BPF_CORE_READ(task, start_time);
		bpf_map_update_elem(&threads, &tid, &fresh, BPF_ANY);
		thread = bpf_map_lookup_elem(&threads, &tid);
		if (!thread)
			return NULL;
	} else if (thread->attempt[0].regs == 0) {
		thread->depth = 0; /* without an entry there is no return either */
	} else if (thread->attempt[0].regs == regs && !thread->attempt[0].live) {
		count(COUNTER_LOST);
		thread->depth = 0;
	}
	thread->depth++;
	attempt = innermost(thread);
	if (!attempt)
		return NULL;
	attempt->begin_ns = bpf_ktime_get_boot_ns();
	attempt->regs = regs;
	attempt->params = 0;
	attempt->name = 0;
	attempt->size = 0;
	attempt->flags = 0;
	attempt->taken = 0;
	attempt->live = 0;
	return attempt;
}

/* Leaves the attempts that have no return of their own. */
static __always_inline void leave_entryless(struct thread *thread)
{
#pragma unroll
	for (int i = 1; i < DEPTH; i++) {
		struct attempt *attempt = innermost(thread);

		if (!attempt || attempt->regs != 0 || thread->depth == 1)
			return;
		thread->depth--;
	}
}

static __always_inline void end_attempt(struct thread *thread)
{
	u32 tid = bpf_get_current_pid_tgid();

	if (thread->depth > 1)
		thread->depth--;
	else
		bpf_map_delete_elem(&threads, &tid);
}

static __always_inline void fill_header(struct record_header *header, u32 kind, struct thread *thread)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	const struct cred *cred = BPF_CORE_READ(task, cred);
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct attempt *attempt;

	header->boot_ns = bpf_ktime_get_boot_ns();
	header->attempt_ns = 0;
	header->parent_attempt_ns = 0;
	attempt = innermost(thread);
	if (attempt) {
		header->attempt_ns = attempt->begin_ns;
		attempt = attempt_at(thread, thread->depth - 1);
		if (attempt)
			header->parent_attempt_ns = attempt->begin_ns;
	}
	header->kind = kind;
	header->pid = pid_tgid >> 32;
	header->tid = pid_tgid;
	header->parent = BPF_CORE_READ(task, real_parent, tgid);
	header->uid = BPF_CORE_READ(cred, uid.val);
	header->euid = BPF_CORE_READ(cred, euid.val);
	header->gid = BPF_CORE_READ(cred, gid.val);
	header->egid = BPF_CORE_READ(cred, egid.val);
	header->has_auid = 0;
	header->auid = 0;
	header->session_id = 0;
	if (bpf_core_field_exists(task->loginuid)) {
		header->has_auid = 1;
		header->auid = BPF_CORE_READ(task, loginuid.val);
		header->session_id = BPF_CORE_READ(task, sessionid);
	}
	header->reserved = 0;
	bpf_get_current_comm(header->comm, sizeof(header->comm));
}

/* System calls. */

static __always_inline int enter_module_call(u64 regs, u64 params, u64 name, u64 size, u64 flags)
{
	struct attempt *attempt = begin_attempt(regs);

	if (attempt) {
		attempt->params = params;
		attempt->name = name;
		attempt->size = size;
		attempt->flags = flags;
	}
	return 0;
}

static __always_inline int exit_module_call(u32 call, s64 result)
{
	struct thread *thread = find_thread();
	struct system_call_record *record;
	struct attempt *attempt;

	if (thread)
		leave_entryless(thread);
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (record) {
		fill_header(&record->header, RECORD_SYSTEM_CALL, thread);
		record->call = call;
		record->result = (s32)result; /* the calls return int */
		record->params_len = NOT_READ;
		record->name_len = NOT_READ;
		record->size = 0;
		record->flags = 0;
		attempt = innermost(thread);
		record->has_arguments = attempt && attempt->regs;
		if (record->has_arguments) {
			record->size = attempt->size;
			record->flags = attempt->flags;
			if (call == CALL_DELETE_MODULE)
				record->name_len = bpf_probe_read_user_str(record->name, sizeof(record->name), (void *)attempt->name);
			else
				record->params_len = bpf_probe_read_user_str(record->params, sizeof(record->params), (void *)attempt->params);
		}
		bpf_ringbuf_submit(record, 0);
	} else {
		count(COUNTER_LOST);
	}
	if (thread)
		end_attempt(thread);
	return 0;
}

/* Not PT_REGS_PARM1_CORE_SYSCALL: on arm64 the kernel takes regs[0], not orig_x0. */
#define ARG1(regs) PT_REGS_PARM1_CORE(regs)
#define ARG2(regs) PT_REGS_PARM2_CORE(regs)
#define ARG3(regs) PT_REGS_PARM3_CORE(regs)

static __always_inline int enter_init_module(struct pt_regs *regs)
{
	return enter_module_call((u64)regs, ARG3(regs), 0, ARG2(regs), 0);
}

static __always_inline int enter_finit_module(struct pt_regs *regs)
{
	return enter_module_call((u64)regs, ARG2(regs), 0, 0, (u32)ARG3(regs));
}

static __always_inline int enter_delete_module(struct pt_regs *regs)
{
	return enter_module_call((u64)regs, 0, ARG1(regs), 0, (u32)ARG2(regs));
}

/*
 * Each hook twice: as a tracing program and as a kprobe. hook.go says which is
 * taken where.
 */
#define SYSTEM_CALL(name, CALL)                                                \
	SEC("fentry/sys_" #name)                                               \
	int fentry_sys_##name(u64 *ctx)                                        \
	{                                                                      \
		return enter_##name((struct pt_regs *)ctx[0]);                 \
	}                                                                      \
	SEC("fexit/sys_" #name)                                                \
	int fexit_sys_##name(u64 *ctx)                                         \
	{                                                                      \
		return exit_module_call(CALL, ctx[1]);                         \
	}                                                                      \
	SEC("kprobe/sys_" #name)                                               \
	int kprobe_sys_##name(struct pt_regs *ctx)                             \
	{                                                                      \
		return enter_##name((struct pt_regs *)PT_REGS_PARM1(ctx));     \
	}                                                                      \
	SEC("kretprobe/sys_" #name)                                            \
	int kretprobe_sys_##name(struct pt_regs *ctx)                          \
	{                                                                      \
		return exit_module_call(CALL, PT_REGS_RC(ctx));                \
	}

SYSTEM_CALL(init_module, CALL_INIT_MODULE)
SYSTEM_CALL(finit_module, CALL_FINIT_MODULE)
SYSTEM_CALL(delete_module, CALL_DELETE_MODULE)

#if defined(__TARGET_ARCH_x86)
/* 32-bit programs on a 64-bit kernel enter elsewhere, with other registers. */
static __always_inline int enter_ia32_init_module(struct pt_regs *regs)
{
	return enter_module_call((u64)regs, (u32)BPF_CORE_READ(regs, dx), 0, (u32)BPF_CORE_READ(regs, cx), 0);
}

static __always_inline int enter_ia32_finit_module(struct pt_regs *regs)
{
	return enter_module_call((u64)regs, (u32)BPF_CORE_READ(regs, cx), 0, 0, (u32)BPF_CORE_READ(regs, dx));
}

static __always_inline int enter_ia32_delete_module(struct pt_regs *regs)
{
	return enter_module_call((u64)regs, 0, (u32)BPF_CORE_READ(regs, bx), 0, (u32)BPF_CORE_READ(regs, cx));
}

SYSTEM_CALL(ia32_init_module, CALL_INIT_MODULE)
SYSTEM_CALL(ia32_finit_module, CALL_FINIT_MODULE)
SYSTEM_CALL(ia32_delete_module, CALL_DELETE_MODULE)
#endif

/* The file or buffer that the kernel is about to take. */

static __always_inline void fill_path(struct file_record *record, struct file *file)
{
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	struct vfsmount *vfsmount = BPF_CORE_READ(file, f_path.mnt);
	struct mount *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct mount *root = BPF_CORE_READ(task, nsproxy, mnt_ns, root);

	record->path_state = PATH_TRUNCATED;
	record->components = COMPONENTS;
	/*
	 * The loop's own variable is the only index: a second counter makes the
	 * verifier follow every combination of the two.
	 */
#pragma unroll
	for (u32 i = 0; i < COMPONENTS; i++) {
		struct dentry *parent;

		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);

			record->path[i][0] = 0;
			if (above == mount) {
				/* A mount of its own can be made to look like any folder. */
				record->path_state = mount == root ? PATH_WHOLE : PATH_UNREACHABLE;
				record->components = i;
				break;
			}
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			continue;
		}
		bpf_probe_read_kernel_str(record->path[i], COMPONENT_LEN, BPF_CORE_READ(dentry, d_name.name));
		parent = BPF_CORE_READ(dentry, d_parent);
		if (parent == dentry) {
			record->path_state = PATH_DETACHED;
			record->components = i + 1;
			break;
		}
		dentry = parent;
	}
}

static __always_inline void fill_times(struct file_record *record, struct inode *inode)
{
	struct inode___timespec *timespec = (void *)inode;
	struct inode___hidden *hidden = (void *)inode;

	if (bpf_core_field_exists(inode->i_mtime_sec))
		record->mtime = BPF_CORE_READ(inode, i_mtime_sec);
	else if (bpf_core_field_exists(hidden->__i_mtime))
		record->mtime = BPF_CORE_READ(hidden, __i_mtime.tv_sec);
	else
		record->mtime = BPF_CORE_READ(timespec, i_mtime.tv_sec);

	if (bpf_core_field_exists(inode->i_ctime_sec))
		record->ctime = BPF_CORE_READ(inode, i_ctime_sec);
	else if (bpf_core_field_exists(hidden->__i_ctime))
		record->ctime = BPF_CORE_READ(hidden, __i_ctime.tv_sec);
	else
		record->ctime = BPF_CORE_READ(timespec, i_ctime.tv_sec);
}

static __always_inline int take(u32 kind, struct file *file, u32 id, bool is_module)
{
	struct thread *thread = NULL;
	struct attempt *attempt = NULL;
	struct file_record *record;
	struct inode *inode;

	if (is_module) {
		/* A system call takes one module; a second is a load inside it. */
		attempt = innermost(find_thread());
		if (!attempt || attempt->taken)
			attempt = begin_attempt(0);
		if (attempt)
			attempt->taken = 1;
		thread = find_thread();
	}
	record = bpf_ringbuf_reserve(&records, sizeof(struct file_record), 0);
	if (!record) {
		count(COUNTER_LOST);
		return 0;
	}
	fill_header(&record->header, kind, thread);
	record->id = id;
	record->is_module = is_module;
	record->path_state = PATH_NONE;
	record->components = 0;
	record->has_arguments = attempt && attempt->regs;
	record->size = attempt ? attempt->size : 0;
	record->flags = attempt ? attempt->flags : 0;
	record->reserved = 0;
	record->filesystem[0] = 0;
	if (file) {
		inode = BPF_CORE_READ(file, f_inode);
		record->inode = BPF_CORE_READ(inode, i_ino);
		record->size = BPF_CORE_READ(inode, i_size);
		record->links = BPF_CORE_READ(inode, i_nlink);
		record->device = BPF_CORE_READ(inode, i_sb, s_dev);
		fill_times(record, inode);
		bpf_probe_read_kernel_str(record->filesystem, sizeof(record->filesystem),
					  BPF_CORE_READ(inode, i_sb, s_type, name));
		record->unhashed = BPF_CORE_READ(file, f_path.dentry, d_hash.pprev) == NULL;
		record->mnt_internal = (BPF_CORE_READ(file, f_path.mnt, mnt_flags) & MNT_INTERNAL) != 0;
		fill_path(record, file);
	}
	bpf_ringbuf_submit(record, 0);
	return 0;
}

static __always_inline int read_file(struct file *file, u32 id)
{
	bool is_module = id == bpf_core_enum_value(enum kernel_read_file_id, READING_MODULE);

	if (bpf_core_enum_value_exists(enum kernel_read_file_id___compressed, READING_MODULE_COMPRESSED) &&
	    id == bpf_core_enum_value(enum kernel_read_file_id___compressed, READING_MODULE_COMPRESSED))
		is_module = 1;
	return take(RECORD_READ_FILE, file, id, is_module);
}

static __always_inline int load_data(u32 id)
{
	return take(RECORD_LOAD_DATA, NULL, id, id == bpf_core_enum_value(enum kernel_load_data_id, LOADING_MODULE));
}

SEC("fentry/security_kernel_read_file")
int fentry_security_kernel_read_file(u64 *ctx)
{
	return read_file((struct file *)ctx[0], ctx[1]);
}

SEC("kprobe/security_kernel_read_file")
int kprobe_security_kernel_read_file(struct pt_regs *ctx)
{
	return read_file((struct file *)PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
}

SEC("fentry/security_kernel_load_data")
int fentry_security_kernel_load_data(u64 *ctx)
{
	return load_data(ctx[0]);
}

SEC("kprobe/security_kernel_load_data")
int kprobe_security_kernel_load_data(struct pt_regs *ctx)
{
	return load_data(PT_REGS_PARM1(ctx));
}

/*
 * Modules that go live, go away and are asked for: at the tracepoint, or, as
 * kprobes, at the functions around it.
 */

static __always_inline int module_event(u32 kind, struct module *module)
{
	struct thread *thread = find_thread();
	struct attempt *attempt = innermost(thread);
	struct module_record *record;

	if (attempt && kind == RECORD_MODULE_LOAD)
		attempt->live = 1;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record) {
		count(COUNTER_LOST);
		return 0;
	}
	fill_header(&record->header, kind, thread);
	record->reserved = 0;
	record->params_len = NOT_READ;
	record->taints = BPF_CORE_READ(module, taints);
	bpf_probe_read_kernel_str(record->name, MODULE_NAME_LEN, module->name);
	record->version[0] = 0;
	record->srcversion[0] = 0;
	bpf_probe_read_kernel_str(record->version, sizeof(record->version), BPF_CORE_READ(module, version));
	bpf_probe_read_kernel_str(record->srcversion, sizeof(record->srcversion), BPF_CORE_READ(module, srcversion));
	/* load_module has copied the parameters by now, so their page is present. */
	if (kind == RECORD_MODULE_LOAD && attempt && attempt->regs)
		record->params_len = bpf_probe_read_user_str(record->params, sizeof(record->params), (void *)attempt->params);
	bpf_ringbuf_submit(record, 0);
	return 0;
}

SEC("raw_tp/module_load")
int raw_tp_module_load(u64 *ctx)
{
	return module_event(RECORD_MODULE_LOAD, (struct module *)ctx[0]);
}

SEC("raw_tp/module_free")
int raw_tp_module_free(u64 *ctx)
{
	return module_event(RECORD_MODULE_FREE, (struct module *)ctx[0]);
}

static __always_inline int module_request(const char *name)
{
	struct module_record *record = bpf_ringbuf_reserve(&records, sizeof(struct module_record), 0);

	if (!record) {
		count(COUNTER_LOST);
		return 0;
	}
	fill_header(&record->header, RECORD_MODULE_REQUEST, NULL);
	record->reserved = 0;
	record->params_len = NOT_READ;
	record->taints = 0;
	record->version[0] = 0;
	record->srcversion[0] = 0;
	bpf_probe_read_kernel_str(record->name, sizeof(record->name), name);
	bpf_ringbuf_submit(record, 0);
	return 0;
}

SEC("raw_tp/module_request")
int raw_tp_module_request(u64 *ctx)
{
	return module_request((const char *)ctx[0]);
}

/* load_module calls it right after the tracepoint, before the module's init. */
SEC("kprobe/do_init_module")
int kprobe_do_init_module(struct pt_regs *ctx)
{
	return module_event(RECORD_MODULE_LOAD, (struct module *)PT_REGS_PARM1(ctx));
}

/* The tracepoint is its first statement. */
SEC("kprobe/free_module")
int kprobe_free_module(struct pt_regs *ctx)
{
	return module_event(RECORD_MODULE_FREE, (struct module *)PT_REGS_PARM1(ctx));
}

/* __request_module calls it right before the tracepoint. */
SEC("kprobe/security_kernel_module_request")
int kprobe_security_kernel_module_request(struct pt_regs *ctx)
{
	return module_request((const char *)PT_REGS_PARM1(ctx));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
