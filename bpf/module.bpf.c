//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Hooks on the functions through which every kernel module is loaded and
 * unloaded. They add no work to other system calls, except one map lookup on
 * thread exit.
 */
#include "kernel.h"
#include "record.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define CHUNKS 512            /* the largest image, 32 MiB */
#define IMAGES_SIZE (16 << 20)
#define CAP_SYS_MODULE 16     /* include/uapi/linux/capability.h */

enum cgroup_subsys_id { memory_cgrp_id = 4 };
enum cgroup_subsys_id___pids { pids_cgrp_id = 11 }; /* CONFIG_CGROUP_PIDS */

/* One system call that loads or unloads, from its entry to its return. */
struct attempt {
	u64 begin_ns;
	u64 owner;  /* the set that sends its records */
	u64 regs;   /* address of its arguments; 0 if its entry was not seen */
	u64 params; /* user address */
	u64 first;  /* the first argument: a user address, or finit_module's descriptor */
	u64 size;
	u64 flags;
	u64 init;   /* the module's init, while it runs */
	u64 request_ns;
	u32 request_tid;
	u32 taken;    /* the kernel took a module */
	u32 streamed; /* its image was sent */
	u32 parsed;   /* its parameters were sent */
	u32 live;     /* its module_load was seen */
	u32 described; /* the records about its process were sent */
	u32 verified; /* mod_verify_sig returned verdict */
	s32 verdict;
};

#include "common.h"

static __always_inline u64 identity(void)
{
	return BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), start_time);
}

#include "owner.h"

struct {
	/*
	 * Of threads without the right to load, whose calls end in EPERM. Any user
	 * can have any number of them in a call. They evict each other here, and
	 * never a load.
	 */
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, u32);
	__type(value, struct thread);
} unprivileged SEC(".maps");

/* Scratch space for records that are too large for the stack. */
struct draft {
	struct path_record path;
	struct cmdline_record cmdline;
	struct file_record file;
	struct thread thread;
	u64 request_ns; /* result of send_process */
	u32 request_tid;
	u32 unprivileged; /* any user can cause the records that are sent */
};

struct {
	/*
	 * While a program uses this, no other one of this file may preempt it on
	 * its processor. hook.go ensures that.
	 */
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct draft);
} drafts SEC(".maps");

/*
 * Why the kernel starts a process: a module_request, or a load whose init starts a program.
 * Its time on the boot clock, and the thread that made it.
 */
struct request {
	u64 start_time; /* of the thread or process that is the map's key, if it is one */
	u64 request_ns;
	u32 request_tid;
	u32 reserved;
};

struct {
	/* By thread: its current request. */
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct request);
} requests SEC(".maps");

struct {
	/* By address of a struct subprocess_info: the request that it is for. */
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct request);
} usermodehelpers SEC(".maps");

struct {
	/* By process that the kernel started: the request that it is for. */
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct request);
} requested SEC(".maps");

/* bpf2go emits a Go type for what a variable or map refers to. */
const struct system_call_record *unused_system_call_record __attribute__((unused));
const struct module_record *unused_module_record __attribute__((unused));
const struct image_record *unused_image_record __attribute__((unused));
const struct image_chunk *unused_image_chunk __attribute__((unused));
const struct params_record *unused_params_record __attribute__((unused));
const enum counter *unused_counter __attribute__((unused));
const enum owner_index *unused_owner_index __attribute__((unused));

static __always_inline struct draft *find_draft(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&drafts, &zero);
}

/* Returns the current thread's attempts, or NULL if it has none under way. */
static __always_inline struct thread *find_thread(void)
{
	u64 current = identity();
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread = bpf_map_lookup_elem(&unprivileged, &tid);

	if (!thread || thread->depth == 0 || thread->identity != current)
		thread = bpf_map_lookup_elem(&threads, &tid);
	if (!thread || thread->depth == 0 || thread->identity != current)
		return NULL;
	return thread;
}

/* Reports whether the current thread has the capability to load a module. */
static __always_inline bool may_load(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	const struct cred *cred = BPF_CORE_READ(task, cred);
	u64 capabilities = 0;

	bpf_core_read(&capabilities, sizeof(capabilities), &cred->cap_effective);
	return (capabilities & (1 << CAP_SYS_MODULE)) && BPF_CORE_READ(cred, user_ns, level) == 0;
}

/* Adds an entry for a thread that has no attempt under way. */
static __always_inline struct thread *add_thread(u32 tid)
{
	struct draft *draft = find_draft();

	if (!draft)
		return NULL;
	draft->thread.identity = identity();
	if (!may_load()) {
		bpf_map_update_elem(&unprivileged, &tid, &draft->thread, BPF_ANY);
		return bpf_map_lookup_elem(&unprivileged, &tid);
	}
	bpf_map_update_elem(&threads, &tid, &draft->thread, BPF_ANY);
	return bpf_map_lookup_elem(&threads, &tid);
}

/*
 * Begins an attempt and returns it, or NULL if it cannot be kept. The registers
 * of all system calls of a thread are at one address, the top of its kernel
 * stack. So the same address again means that a return was missed, unless the
 * module's init is running: then the init makes the call with its caller's
 * registers. Another address, or none, is a load inside a load.
 */
static __always_inline struct attempt *begin_attempt(u64 regs)
{
	u32 tid = bpf_get_current_pid_tgid();
	bool is_privileged = may_load();
	struct attempt *attempt;
	struct thread *thread;

	/* The thread may have gained the right to load since a return was missed. */
	if (is_privileged)
		bpf_map_delete_elem(&unprivileged, &tid);
	thread = find_thread();
	if (!thread) {
		thread = add_thread(tid);
		if (!thread) {
			lose(owner_at(OWNER_CURRENT)); /* its records cannot be joined */
			return NULL;
		}
	} else if (thread->attempt[0].regs == 0) {
		thread->depth = 0; /* without an entry there is no return either */
	} else if (thread->attempt[0].regs == regs && !thread->attempt[0].init) {
		/* It may have dropped the right to load since. */
		if (bpf_map_lookup_elem(&threads, &tid))
			lose(thread->attempt[0].owner);
		else
			shed(thread->attempt[0].owner);
		thread->depth = 0;
	}
	thread->depth++;
	attempt = innermost(thread);
	if (!attempt)
		return NULL;
	*attempt = (struct attempt){.regs = regs};
	own_attempt(attempt, regs != 0);
	return attempt;
}

/* Ends the attempts whose return has no hook. */
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

static __always_inline u32 active_pid_ns(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	struct upid *upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
			    (u64)level * bpf_core_type_size(struct upid);

	return BPF_CORE_READ(upid, ns, ns.inum);
}

static __always_inline void fill_header(struct record_header *header, u32 kind, struct thread *thread)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	const struct cred *cred = BPF_CORE_READ(task, cred);
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct attempt *attempt = innermost(thread);

	__builtin_memset(header, 0, sizeof(*header));
	header->boot_ns = bpf_ktime_get_boot_ns();
	if (attempt) {
		header->attempt_ns = attempt->begin_ns;
		header->context_ns = attempt->begin_ns;
		header->request_ns = attempt->request_ns;
		header->request_tid = attempt->request_tid;
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
	bpf_core_read(&header->capabilities, sizeof(header->capabilities), &cred->cap_effective);
	header->user_ns = BPF_CORE_READ(cred, user_ns, ns.inum);
	header->mnt_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	header->pid_ns = active_pid_ns(task);
	header->kthread = (BPF_CORE_READ(task, flags) & PF_KTHREAD) != 0;
	if (bpf_core_field_exists(task->loginuid)) {
		header->has_auid = 1;
		header->auid = BPF_CORE_READ(task, loginuid.val);
		header->session_id = BPF_CORE_READ(task, sessionid);
	}
	bpf_get_current_comm(header->comm, sizeof(header->comm));
}

/*
 * Sends a record. If any user can cause it, it looks for room each time: the records
 * about one process can take 165 KiB on each processor.
 */
static __always_inline void output(struct record_header *header, u64 size)
{
	struct draft *draft = find_draft();
	u64 *counter = number_record(header);
	u64 number = header->number;

	if (!draft || (draft->unprivileged && is_crowded()) || bpf_ringbuf_output(&records, header, size, 0))
		count(draft && draft->unprivileged ? COUNTER_SHED : COUNTER_LOST);
	else if (counter)
		*counter = number; /* as in submit */
}

/* Sends a draft, which ends with a path, without the unused components. */
static __always_inline void send_path(struct record_header *draft, u64 fixed, u64 components)
{
	/* The compiler would drop the check; the verifier needs it. */
	asm volatile("" : "+r"(components));
	if (components > COMPONENTS)
		components = COMPONENTS;
	output(draft, fixed + components * COMPONENT_LEN);
}

static __always_inline void send_role(struct path_record *record, u32 role, u64 components)
{
	record->role = role;
	send_path(&record->header, offsetof(struct path_record, path.component), components);
}

/*
 * Functions that are not static are verified once, on their own, instead of again
 * for each path to them. Otherwise the loops would exceed the verifier's limit. On
 * 5.10 they take only numbers.
 */

enum draft_path { DRAFT_PATH, DRAFT_FILE };

/*
 * Writes a path, as the mount namespace of the task sees it, into a draft, and
 * returns the number of its components.
 */
__noinline u64 walk_path(u64 dentry_address, u64 vfsmount_address, u64 task_address, u32 to)
{
	struct dentry *dentry = (void *)dentry_address;
	struct mount *mount = (void *)vfsmount_address - bpf_core_field_offset(struct mount, mnt);
	struct task_struct *task = (void *)task_address;
	struct mount *root = BPF_CORE_READ(task, nsproxy, mnt_ns, root);
	struct draft *draft = find_draft();
	struct walk *walk;
	u64 components = COMPONENTS;

	if (!draft)
		return 0;
	walk = to == DRAFT_FILE ? &draft->file.path : &draft->path.path;
	walk->state = PATH_TRUNCATED;
	/*
	 * The loop's own variable is the only index: a second counter makes the
	 * verifier follow every combination of the two.
	 */
	for (u32 i = 0; i < COMPONENTS; i++) {
		struct dentry *parent;

		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);

			walk->component[i][0] = 0;
			if (above == mount) {
				/* A user can mount something there that looks like any folder. */
				walk->state = mount == root ? PATH_WHOLE : PATH_UNREACHABLE;
				components = i;
				break;
			}
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			continue;
		}
		bpf_probe_read_kernel_str(walk->component[i], COMPONENT_LEN, BPF_CORE_READ(dentry, d_name.name));
		parent = BPF_CORE_READ(dentry, d_parent);
		if (parent == dentry) {
			walk->state = PATH_DETACHED;
			components = i + 1;
			break;
		}
		dentry = parent;
	}
	walk->components = components;
	return components;
}

/* Writes the path of a control group into the draft of a path_record. */
__noinline u64 walk_cgroup(u64 kernfs_node_address)
{
	struct kernfs_node *node = (void *)kernfs_node_address;
	struct draft *draft = find_draft();
	u64 components = COMPONENTS;
	struct walk *walk;

	if (!draft)
		return 0;
	walk = &draft->path.path;
	walk->state = PATH_TRUNCATED;
	for (u32 i = 0; i < COMPONENTS; i++) {
		struct kernfs_node___rcu *rcu = (void *)node;
		struct kernfs_node *parent;

		if (bpf_core_field_exists(rcu->__parent))
			parent = BPF_CORE_READ(rcu, __parent);
		else
			parent = BPF_CORE_READ(node, parent);
		if (!parent) {
			walk->state = PATH_WHOLE;
			components = i;
			break;
		}
		bpf_probe_read_kernel_str(walk->component[i], COMPONENT_LEN, BPF_CORE_READ(node, name));
		node = parent;
	}
	walk->components = components;
	return components;
}

/* The process that makes an attempt. */

/* Sends the record of a thread's process. The process's first thread may have exited, and then has no mm. */
static __always_inline void send_executable(struct path_record *record, struct task_struct *task)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	struct file *file = mm ? BPF_CORE_READ(mm, exe_file) : NULL;
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	u64 components = 0;

	record->pid = BPF_CORE_READ(task, tgid);
	record->uid = BPF_CORE_READ(leader, cred, uid.val);
	record->has_exe = !(BPF_CORE_READ(task, flags) & PF_KTHREAD);
	bpf_core_read(record->comm, sizeof(record->comm), &leader->comm);
	record->path.state = PATH_NONE;
	record->path.components = 0;
	if (file)
		components = walk_path((u64)BPF_CORE_READ(file, f_path.dentry), (u64)BPF_CORE_READ(file, f_path.mnt), (u64)task, DRAFT_PATH);
	send_role(record, ROLE_EXE, components);
}

static __always_inline void send_cwd(struct path_record *record, struct task_struct *task)
{
	struct fs_struct *fs = BPF_CORE_READ(task, fs);

	send_role(record, ROLE_CWD,
		  walk_path((u64)BPF_CORE_READ(fs, pwd.dentry), (u64)BPF_CORE_READ(fs, pwd.mnt), (u64)task, DRAFT_PATH));
}

static __always_inline struct cgroup *cgroup_of(struct css_set *css, u32 subsys)
{
	struct cgroup_subsys_state **slot = (void *)css + bpf_core_field_offset(struct css_set, subsys) + (u64)subsys * sizeof(*slot);
	struct cgroup_subsys_state *state = NULL;

	bpf_probe_read_kernel(&state, sizeof(state), slot);
	return state ? BPF_CORE_READ(state, cgroup) : NULL;
}

static __always_inline void send_cgroups(struct path_record *record, struct task_struct *task)
{
	struct cgroup *cgroup, *other = NULL;
	struct css_set *css;

	if (!bpf_core_field_exists(task->cgroups))
		return;
	css = BPF_CORE_READ(task, cgroups);
	cgroup = BPF_CORE_READ(css, dfl_cgrp);
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id___pids, pids_cgrp_id))
		other = cgroup_of(css, bpf_core_enum_value(enum cgroup_subsys_id___pids, pids_cgrp_id));
	else if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		other = cgroup_of(css, bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id));
	record->generation = other && BPF_CORE_READ(other, root) != BPF_CORE_READ(cgroup, root);
	send_role(record, ROLE_CGROUP, walk_cgroup((u64)BPF_CORE_READ(cgroup, kn)));
	if (record->generation)
		send_role(record, ROLE_CGROUP_V1, walk_cgroup((u64)BPF_CORE_READ(other, kn)));
}

static __always_inline void send_cmdline(struct cmdline_record *record, struct task_struct *task)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	u64 begin, len;

	if (!mm)
		return;
	begin = BPF_CORE_READ(mm, arg_start);
	len = BPF_CORE_READ(mm, arg_end) - begin;
	record->truncated = len > CMDLINE_LEN;
	if (len >= CMDLINE_LEN) {
		len = CMDLINE_LEN;
		record->error = bpf_probe_read_user(record->cmdline, CMDLINE_LEN, (void *)begin);
	} else {
		asm volatile("%0 &= %1" : "+r"(len) : "i"(CMDLINE_LEN - 1));
		record->error = bpf_probe_read_user(record->cmdline, len, (void *)begin);
	}
	record->len = len;
	/* In assembly: the compiler would drop the mask, which older verifiers need. */
	asm volatile("%0 &= %1" : "+r"(len) : "i"(2 * CMDLINE_LEN - 1));
	output(&record->header, offsetof(struct cmdline_record, cmdline) + len);
}

/*
 * Reports whether the kernel started the current process or an ancestor: session 0 is
 * that of kernel threads, and of processes that began none of their own.
 */
static __always_inline bool is_in_kernel_session(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct pid *session = BPF_CORE_READ(task, signal, pids[PIDTYPE_SID]);

	return session && BPF_CORE_READ(session, numbers[0].nr) == 0;
}

/*
 * Sends the records about the current process, with context_ns, and finds the
 * request for which the kernel started it or an ancestor.
 */
__noinline int send_process(u64 context_ns, u32 unprivileged)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct draft *draft = find_draft();

	if (!draft)
		return 0;
	draft->request_ns = 0;
	draft->request_tid = 0;
	draft->unprivileged = unprivileged;
	fill_header(&draft->path.header, RECORD_PATH, NULL);
	draft->path.header.context_ns = context_ns;
	draft->cmdline.header = draft->path.header;
	draft->cmdline.header.kind = RECORD_CMDLINE;
	draft->path.generation = 0;
	draft->path.last = 0;
	send_cmdline(&draft->cmdline, task);
	send_cwd(&draft->path, task);
	send_cgroups(&draft->path, task);
	for (u32 i = 0; i <= ANCESTORS; i++) {
		/* The thread that forked it or, if that has exited, another live thread. */
		struct task_struct *parent = BPF_CORE_READ(task, real_parent);
		u32 tgid = BPF_CORE_READ(task, tgid);
		struct request *cause = bpf_map_lookup_elem(&requested, &tgid);

		if (cause && draft->request_ns == 0 && cause->start_time == BPF_CORE_READ(task, group_leader, start_time)) {
			draft->request_ns = cause->request_ns;
			draft->request_tid = cause->request_tid;
		}
		draft->path.generation = i;
		draft->path.last = tgid <= 1 || !parent || BPF_CORE_READ(parent, tgid) == 0;
		send_executable(&draft->path, task);
		if (draft->path.last)
			break;
		task = parent;
	}
	/* The ancestors of a helper of the kernel's end at a kernel thread, unless the helper has ended. */
	if (draft->request_ns == 0 && draft->path.header.pid != 1 && !(BPF_CORE_READ(task, flags) & PF_KTHREAD) && is_in_kernel_session())
		draft->request_tid = REQUEST_UNKNOWN;
	return 0;
}

/* Sends the records about an attempt's process, once per attempt, and returns context_ns. */
static __always_inline u64 send_process_once(struct attempt *attempt, bool unprivileged)
{
	u64 context_ns = attempt ? attempt->begin_ns : bpf_ktime_get_boot_ns();
	struct draft *draft = find_draft();

	if (!draft || (attempt && attempt->described))
		return context_ns;
	send_process(context_ns, unprivileged);
	if (attempt) {
		attempt->described = 1;
		attempt->request_ns = draft->request_ns;
		attempt->request_tid = draft->request_tid;
	}
	return context_ns;
}

/* System calls. */

static __always_inline int enter_module_call(u32 call, u64 regs, u64 first, u64 second, u64 third)
{
	struct attempt *attempt = begin_attempt(regs);

	if (!attempt)
		return 0;
	if (call == CALL_INIT_MODULE) {
		attempt->size = second;
		attempt->params = third;
	} else if (call == CALL_FINIT_MODULE) {
		attempt->first = first;
		attempt->params = second;
		attempt->flags = (u32)third;
	} else {
		attempt->first = first;
		attempt->flags = (u32)second;
	}
	return 0;
}

static __always_inline void fill_denied_key(struct denied_key *key, u32 call)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	const struct cred *cred = BPF_CORE_READ(task, cred);
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);

	key->call = call;
	key->uid = BPF_CORE_READ(cred, uid.val);
	key->euid = BPF_CORE_READ(cred, euid.val);
	key->exe_inode = BPF_CORE_READ(inode, i_ino);
	key->exe_device = BPF_CORE_READ(inode, i_sb, s_dev);
}

/*
 * Fills in the file of a finit_module that took no module. From 6.4 on a call waits
 * while another one loads the same file, and returns its result (idempotent_init_module).
 */
static __always_inline void fill_file(struct system_call_record *record, u32 descriptor)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file *file = NULL;
	struct inode *inode;

	if (descriptor >= BPF_CORE_READ(table, max_fds))
		return;
	bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(table, fd) + descriptor);
	inode = BPF_CORE_READ(file, f_inode);
	record->inode = BPF_CORE_READ(inode, i_ino);
	record->device = BPF_CORE_READ(inode, i_sb, s_dev);
}

/* Returns the number of a CANARY, or 0 for any other call. */
static __always_inline u64 canary_of(u32 call, struct attempt *attempt)
{
	u32 zero = 0;
	struct reader_settings *set = bpf_map_lookup_elem(&settings, &zero);

	return call == CALL_INIT_MODULE && attempt && attempt->regs && set && attempt->params == set->canary ? attempt->params : 0;
}

/* Sends the result of a call, or counts it. */
static __always_inline void send_call(u32 call, s64 result, struct thread *thread)
{
	struct attempt *attempt = innermost(thread);
	struct system_call_record *record;
	struct denied_key key = {};
	bool is_denied = result == -EPERM && !(attempt && attempt->taken);
	u64 canary = is_denied ? canary_of(call, attempt) : 0;
	u64 context_ns = 0;

	if (is_denied && !canary) {
		fill_denied_key(&key, call);
		if (!count_denied(&key))
			return;
	}
	if (!canary)
		context_ns = send_process_once(attempt, is_denied);
	record = begin_call(call, result, thread, attempt);
	if (!record)
		return;
	record->header.context_ns = context_ns;
	record->header.taken = attempt && attempt->taken;
	record->denied = canary ? CANARY : is_denied;
	record->inode = key.exe_inode;
	record->device = key.exe_device;
	record->has_arguments = attempt && attempt->regs;
	if (canary) {
		record->size = canary;
	} else if (attempt && attempt->regs) {
		if (call == CALL_DELETE_MODULE)
			record->name_len = bpf_probe_read_user_str(record->name, sizeof(record->name), (void *)attempt->first);
		else if (!attempt->parsed)
			record->params_len = bpf_probe_read_user_str(record->params, sizeof(record->params), (void *)attempt->params);
		if (call == CALL_FINIT_MODULE && !is_denied && !attempt->taken)
			fill_file(record, attempt->first);
	}
	submit(record);
}

static __always_inline int exit_module_call(u32 call, s64 returned)
{
	struct thread *thread = find_thread();

	if (thread)
		leave_entryless(thread);
	if (is_own(own_return(innermost(thread))))
		send_call(call, (s32)returned, thread); /* the calls return int */
	if (thread)
		end_call(thread);
	return 0;
}

/* Not PT_REGS_PARM1_CORE_SYSCALL: on arm64 the kernel takes regs[0], not orig_x0. */
static __always_inline int enter_native(u32 call, struct pt_regs *regs)
{
	return enter_module_call(call, (u64)regs, PT_REGS_PARM1_CORE(regs), PT_REGS_PARM2_CORE(regs),
				 PT_REGS_PARM3_CORE(regs));
}

/* Each hook has a tracing program and a kprobe program. hook.go chooses. */
#define SYSTEM_CALL(name, CALL, enter)                                         \
	SEC("fentry/sys_" #name)                                               \
	int fentry_sys_##name(u64 *ctx)                                        \
	{                                                                      \
		return enter(CALL, (struct pt_regs *)ctx[0]);                  \
	}                                                                      \
	SEC("fexit/sys_" #name)                                                \
	int fexit_sys_##name(u64 *ctx)                                         \
	{                                                                      \
		return exit_module_call(CALL, ctx[1]);                         \
	}                                                                      \
	SEC("kprobe/sys_" #name)                                               \
	int kprobe_sys_##name(struct pt_regs *ctx)                             \
	{                                                                      \
		return enter(CALL, (struct pt_regs *)PT_REGS_PARM1(ctx));      \
	}                                                                      \
	SEC("kretprobe/sys_" #name)                                            \
	int kretprobe_sys_##name(struct pt_regs *ctx)                          \
	{                                                                      \
		return exit_module_call(CALL, PT_REGS_RC(ctx));                \
	}

SYSTEM_CALL(init_module, CALL_INIT_MODULE, enter_native)
SYSTEM_CALL(finit_module, CALL_FINIT_MODULE, enter_native)
SYSTEM_CALL(delete_module, CALL_DELETE_MODULE, enter_native)

#if defined(__TARGET_ARCH_x86)
/* 32-bit programs on a 64-bit kernel have other entries, and other registers. */
static __always_inline int enter_ia32(u32 call, struct pt_regs *regs)
{
	return enter_module_call(call, (u64)regs, (u32)BPF_CORE_READ(regs, bx), (u32)BPF_CORE_READ(regs, cx),
				 (u32)BPF_CORE_READ(regs, dx));
}

SYSTEM_CALL(ia32_init_module, CALL_INIT_MODULE, enter_ia32)
SYSTEM_CALL(ia32_finit_module, CALL_FINIT_MODULE, enter_ia32)
SYSTEM_CALL(ia32_delete_module, CALL_DELETE_MODULE, enter_ia32)
#endif

/* The file or buffer that the kernel is about to read. */

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

	if (bpf_core_field_exists(inode->i_ctime_sec)) {
		record->ctime = BPF_CORE_READ(inode, i_ctime_sec);
		record->ctime_nsec = BPF_CORE_READ(inode, i_ctime_nsec);
	} else if (bpf_core_field_exists(hidden->__i_ctime)) {
		record->ctime = BPF_CORE_READ(hidden, __i_ctime.tv_sec);
		record->ctime_nsec = BPF_CORE_READ(hidden, __i_ctime.tv_nsec);
	} else {
		record->ctime = BPF_CORE_READ(timespec, i_ctime.tv_sec);
		record->ctime_nsec = BPF_CORE_READ(timespec, i_ctime.tv_nsec);
	}
}

static __always_inline int take(u32 kind, struct file *file, u32 id)
{
	bool is_module = kind == RECORD_READ_FILE ? is_module_read(id) : is_module_data(id);
	struct thread *thread = NULL;
	struct attempt *attempt = NULL;
	struct file_record *record;
	struct draft *draft;
	u64 components = 0;
	u64 context_ns;

	if (is_module) {
		/* A system call takes one module; a second is a load inside it. */
		attempt = innermost(find_thread());
		if (!attempt || attempt->taken)
			attempt = begin_attempt(0);
		if (attempt)
			attempt->taken = 1;
		thread = find_thread();
	}
	if (!is_own(owner_of(attempt)))
		return 0;
	context_ns = send_process_once(attempt, 0);
	draft = find_draft();
	if (!draft)
		return 0;
	draft->unprivileged = 0;
	record = &draft->file;
	fill_header(&record->header, kind, thread);
	record->header.context_ns = context_ns;
	record->id = id;
	record->is_module = is_module;
	record->path.state = PATH_NONE;
	record->path.components = 0;
	record->has_arguments = attempt && attempt->regs;
	record->size = attempt ? attempt->size : 0;
	record->flags = attempt ? attempt->flags : 0;
	record->filesystem[0] = 0;
	if (file) {
		struct inode *inode = BPF_CORE_READ(file, f_inode);

		record->inode = BPF_CORE_READ(inode, i_ino);
		record->size = BPF_CORE_READ(inode, i_size);
		record->links = BPF_CORE_READ(inode, i_nlink);
		record->device = BPF_CORE_READ(inode, i_sb, s_dev);
		fill_times(record, inode);
		bpf_probe_read_kernel_str(record->filesystem, sizeof(record->filesystem),
					  BPF_CORE_READ(inode, i_sb, s_type, name));
		record->unhashed = BPF_CORE_READ(file, f_path.dentry, d_hash.pprev) == NULL;
		record->mnt_internal = (BPF_CORE_READ(file, f_path.mnt, mnt_flags) & MNT_INTERNAL) != 0;
		components = walk_path((u64)BPF_CORE_READ(file, f_path.dentry), (u64)BPF_CORE_READ(file, f_path.mnt),
				       bpf_get_current_task(), DRAFT_FILE);
	}
	send_path(&record->header, offsetof(struct file_record, path.component), components);
	return 0;
}

SEC("fentry/security_kernel_read_file")
int fentry_security_kernel_read_file(u64 *ctx)
{
	return take(RECORD_READ_FILE, (struct file *)ctx[0], ctx[1]);
}

SEC("kprobe/security_kernel_read_file")
int kprobe_security_kernel_read_file(struct pt_regs *ctx)
{
	return take(RECORD_READ_FILE, (struct file *)PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
}

SEC("fentry/security_kernel_load_data")
int fentry_security_kernel_load_data(u64 *ctx)
{
	return take(RECORD_LOAD_DATA, NULL, ctx[0]);
}

SEC("kprobe/security_kernel_load_data")
int kprobe_security_kernel_load_data(struct pt_regs *ctx)
{
	return take(RECORD_LOAD_DATA, NULL, PT_REGS_PARM1(ctx));
}

/* The bytes that the kernel has read. */

/* Sends len bytes of an image, in a record of room bytes, which is a constant and at least len. */
static __always_inline u64 send_chunk(const void *image, u64 size, u64 attempt_ns, u64 offset, u64 len, const u64 room)
{
	struct image_chunk *chunk = bpf_ringbuf_reserve(&images, sizeof(*chunk) + room, 0);

	if (!chunk)
		return IMAGE_LOST;
	chunk->attempt_ns = attempt_ns;
	chunk->size = size;
	chunk->offset = offset;
	chunk->tid = bpf_get_current_pid_tgid();
	chunk->len = len;
	/* As in send_path. */
	asm volatile("" : "+r"(len));
	if (len > room)
		len = room;
	if (bpf_probe_read_kernel(chunk + 1, len, image + offset)) {
		bpf_ringbuf_discard(chunk, 0);
		return IMAGE_UNREADABLE;
	}
	bpf_ringbuf_submit(chunk, BPF_RB_FORCE_WAKEUP);
	return IMAGE_WHOLE;
}

/* Sends the last chunk of an image, in a record of about its size. */
__noinline u64 stream_rest(u64 image_address, u64 size, u64 attempt_ns, u64 offset)
{
	u64 left = size - offset;

#pragma unroll
	for (u64 room = CHUNK_STEP; room < CHUNK_LEN; room += CHUNK_STEP)
		if (left <= room)
			return send_chunk((const void *)image_address, size, attempt_ns, offset, left, room);
	return send_chunk((const void *)image_address, size, attempt_ns, offset, left, CHUNK_LEN);
}

/*
 * Sends an image in chunks. The last chunk has a function of its own, because older
 * verifiers would follow it again from each iteration of the loop.
 */
__noinline u64 stream(u64 image_address, u64 size, u64 attempt_ns)
{
	for (u32 i = 0; i < CHUNKS; i++) {
		u64 offset = (u64)i * CHUNK_LEN;
		u64 state;

		if (size - offset <= CHUNK_LEN)
			return stream_rest(image_address, size, attempt_ns, offset);
		state = send_chunk((const void *)image_address, size, attempt_ns, offset, CHUNK_LEN, CHUNK_LEN);
		if (state != IMAGE_WHOLE)
			return state;
	}
	return IMAGE_OVER_LIMIT;
}

static __always_inline int taken(const void *image, u64 size, bool is_module)
{
	struct thread *thread = find_thread();
	struct attempt *attempt = innermost(thread);
	struct image_record *record;
	struct reader_settings *set;
	u32 state = IMAGE_OVER_LIMIT;
	u32 zero = 0;

	/* From 7.2 the hook runs again after decompression. */
	if (!is_module || !attempt || !attempt->taken || attempt->streamed)
		return 0;
	attempt->streamed = 1;
	if (!is_own(attempt->owner))
		return 0;
	set = bpf_map_lookup_elem(&settings, &zero);
	if (set && size <= set->image_limit)
		state = stream((u64)image, size, attempt->begin_ns);
	record = begin_record(RECORD_IMAGE, thread, sizeof(*record));
	if (!record)
		return 0;
	record->size = size;
	record->state = state;
	record->flags = 0;
	submit(record);
	return 0;
}

SEC("fentry/security_kernel_post_read_file")
int fentry_security_kernel_post_read_file(u64 *ctx)
{
	return taken((const void *)ctx[1], ctx[2], is_module_read(ctx[3]));
}

SEC("kprobe/security_kernel_post_read_file")
int kprobe_security_kernel_post_read_file(struct pt_regs *ctx)
{
	return taken((const void *)PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), is_module_read(PT_REGS_PARM4(ctx)));
}

SEC("fentry/security_kernel_post_load_data")
int fentry_security_kernel_post_load_data(u64 *ctx)
{
	return taken((const void *)ctx[0], ctx[1], is_module_data(ctx[2]));
}

SEC("kprobe/security_kernel_post_load_data")
int kprobe_security_kernel_post_load_data(struct pt_regs *ctx)
{
	return taken((const void *)PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), is_module_data(PT_REGS_PARM3(ctx)));
}

static __always_inline int verified(s64 verdict)
{
	struct attempt *attempt = innermost(find_thread());

	if (attempt && attempt->taken) {
		attempt->verified = 1;
		attempt->verdict = (s32)verdict;
	}
	return 0;
}

SEC("fexit/mod_verify_sig")
int fexit_mod_verify_sig(u64 *ctx)
{
	return verified(ctx[2]);
}

SEC("kretprobe/mod_verify_sig")
int kretprobe_mod_verify_sig(struct pt_regs *ctx)
{
	return verified(PT_REGS_RC(ctx));
}

/*
 * The parameters as the kernel copied them. The caller's memory may have changed
 * since, or be gone.
 */
static __always_inline int parse_args(const char *args)
{
	struct thread *thread = find_thread();
	struct attempt *attempt = innermost(thread);
	struct params_record *record;

	/* load_module calls it first; code of the module may call it again. */
	if (!attempt || !attempt->taken || attempt->parsed || attempt->live)
		return 0;
	attempt->parsed = 1;
	if (!is_own(attempt->owner))
		return 0;
	record = begin_record(RECORD_PARAMS, thread, sizeof(*record));
	if (!record)
		return 0;
	record->params_len = bpf_probe_read_kernel_str(record->params, sizeof(record->params), args);
	submit(record);
	return 0;
}

SEC("fentry/parse_args")
int fentry_parse_args(u64 *ctx)
{
	return parse_args((const char *)ctx[1]);
}

SEC("kprobe/parse_args")
int kprobe_parse_args(struct pt_regs *ctx)
{
	return parse_args((const char *)PT_REGS_PARM2(ctx));
}

/*
 * Modules that go live, are freed or are requested: at the tracepoint, or at the
 * function around it as a kprobe.
 */

static __always_inline int module_event(u32 kind, struct module *module)
{
	struct thread *thread = find_thread();
	struct attempt *attempt = innermost(thread);
	struct module_record *record;
	u64 context_ns;

	if (attempt && kind == RECORD_MODULE_LOAD)
		attempt->live = 1;
	if (!is_own(owner_of(attempt)))
		return 0;
	context_ns = send_process_once(attempt, 0);
	record = begin_module(kind, thread, attempt);
	if (!record)
		return 0;
	record->header.context_ns = context_ns;
	if (bpf_core_field_exists(module->sig_ok))
		record->sig_ok = BPF_CORE_READ(module, sig_ok) ? SIG_OK_YES : SIG_OK_NO;
	record->taints = BPF_CORE_READ(module, taints);
	bpf_probe_read_kernel_str(record->name, MODULE_NAME_LEN, module->name);
	bpf_probe_read_kernel_str(record->version, sizeof(record->version), BPF_CORE_READ(module, version));
	bpf_probe_read_kernel_str(record->srcversion, sizeof(record->srcversion), BPF_CORE_READ(module, srcversion));
	if (kind == RECORD_MODULE_LOAD && attempt && attempt->regs && !attempt->parsed)
		record->params_len = bpf_probe_read_user_str(record->params, sizeof(record->params), (void *)attempt->params);
	submit(record);
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
	struct attempt *attempt = innermost(find_thread());
	u64 owner = owner_of(attempt);
	struct request request = {
		.start_time = identity(),
		.request_ns = stamped_ns(STAMP_HOOK),
		.request_tid = (u32)bpf_get_current_pid_tgid(),
	};
	struct module_record *record;

	/* Also where another set sends it, or none: this one may send the load that follows. */
	bpf_map_update_elem(&requests, &request.request_tid, &request, BPF_ANY);
	if (!is_own(owner))
		return 0;
	if (is_crowded()) {
		count(COUNTER_SHED);
		return 0;
	}
	send_process(request.request_ns, 1);
	record = begin_module(RECORD_MODULE_REQUEST, NULL, NULL);
	if (!record)
		return 0;
	record->header.attempt_ns = request.request_ns;
	record->header.context_ns = request.request_ns;
	if (attempt)
		record->header.parent_attempt_ns = attempt->begin_ns; /* made by a module's init */
	bpf_probe_read_kernel_str(record->name, sizeof(record->name), name);
	submit(record);
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

/* While its init runs, code of a module can load another one in any way. */
SEC("raw_tp/initcall_start")
int raw_tp_initcall_start(u64 *ctx)
{
	struct attempt *attempt = innermost(find_thread());

	if (attempt)
		attempt->init = ctx[0];
	return 0;
}

/* An init ends every attempt that was made from inside it, even if a return was missed. */
SEC("raw_tp/initcall_finish")
int raw_tp_initcall_finish(u64 *ctx)
{
	struct thread *thread = find_thread();
	u64 init = ctx[0];
	u64 depth = 0;

	if (!thread)
		return 0;
	for (u32 i = 0; i < DEPTH; i++) {
		struct attempt *attempt = &thread->attempt[i];

		if (i >= thread->depth)
			break;
		if (depth && attempt->regs)
			lose(attempt->owner);
		if (!depth && attempt->init == init) {
			attempt->init = 0;
			depth = i + 1;
		}
	}
	if (depth)
		thread->depth = depth;
	return 0;
}

/*
 * A thread that exits has an attempt under way only if a return was missed or will
 * not come. This runs for every thread of every process. It costs them one lookup,
 * which takes no lock.
 */
SEC("raw_tp/sched_process_exit")
int raw_tp_sched_process_exit(u64 *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);

	if (!thread)
		return 0;
	if (thread->attempt[0].regs)
		lose(thread->attempt[0].owner);
	bpf_map_delete_elem(&threads, &tid);
	return 0;
}

/*
 * From a request to the modprobe that the kernel starts for it, or from a module's init
 * to the program that it has the kernel start: the thread passes a struct subprocess_info
 * to the new one.
 */

static __always_inline int start_helper(u64 subprocess_info)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct request *request = bpf_map_lookup_elem(&requests, &tid);
	struct attempt *attempt = innermost(find_thread());

	if (request && request->start_time == identity()) {
		bpf_map_update_elem(&usermodehelpers, &subprocess_info, request, BPF_ANY);
	} else if (attempt && attempt->live) {
		/* The module's init starts a program. */
		struct request load = {.request_ns = attempt->begin_ns, .request_tid = tid};

		bpf_map_update_elem(&usermodehelpers, &subprocess_info, &load, BPF_ANY);
	} else {
		bpf_map_delete_elem(&usermodehelpers, &subprocess_info); /* addresses are reused */
	}
	bpf_map_delete_elem(&requests, &tid);
	return 0;
}

static __always_inline int begin_helper(u64 subprocess_info)
{
	struct request *request = bpf_map_lookup_elem(&usermodehelpers, &subprocess_info);
	struct request cause;
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	if (!request)
		return 0;
	cause = *request;
	cause.start_time = identity();
	bpf_map_update_elem(&requested, &tgid, &cause, BPF_ANY);
	bpf_map_delete_elem(&usermodehelpers, &subprocess_info);
	return 0;
}

SEC("fentry/call_usermodehelper_exec")
int fentry_call_usermodehelper_exec(u64 *ctx)
{
	return start_helper(ctx[0]);
}

SEC("kprobe/call_usermodehelper_exec")
int kprobe_call_usermodehelper_exec(struct pt_regs *ctx)
{
	return start_helper(PT_REGS_PARM1(ctx));
}

SEC("fentry/call_usermodehelper_exec_async")
int fentry_call_usermodehelper_exec_async(u64 *ctx)
{
	return begin_helper(ctx[0]);
}

SEC("kprobe/call_usermodehelper_exec_async")
int kprobe_call_usermodehelper_exec_async(struct pt_regs *ctx)
{
	return begin_helper(PT_REGS_PARM1(ctx));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
