//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The hooks of module.bpf.c for a kernel that is locked down to confidentiality.
 * It refuses every program that calls a helper to read memory, and has no
 * kprobes. A program can still follow, from a hook's arguments, pointers whose
 * type the kernel knows; such a read of an invalid address gives zero. It cannot
 * read strings behind a char pointer, nor the caller's memory.
 */
#include "kernel.h"
#include "record.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define IMAGES_SIZE (64 << 10) /* at least one page on every kernel; the ring stays empty */
#define INLINE_LEN 32         /* least length of a name inside struct dentry */
#define REACH 16              /* components of a path */
#define WITH_PATH(type) (offsetof(type, path.component) + REACH * COMPONENT_LEN)

/*
 * A load, from the moment when the kernel takes a module, or an unload, from the
 * moment when it frees the module.
 */
struct attempt {
	u64 begin_ns;
	u64 owner;    /* the set that sends its records */
	u64 size;
	u64 flags;
	u32 call;     /* 0 if its beginning was not seen */
	u32 entered;  /* load_module was called: size and flags are set */
	u32 returned; /* load_module has returned */
	u32 live;     /* its module_load was seen: code of the module may run */
	u32 verified; /* mod_verify_sig returned verdict */
	s32 verdict;
};

#include "common.h"

/* Returns the current thread, or NULL if the kernel has no helper for it. */
static __always_inline struct task_struct *current_task(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf))
		return bpf_get_current_task_btf();
	return NULL;
}

/* Distinguishes a thread from a later one with its number, as far as possible. */
static __always_inline u64 identity(void)
{
	struct task_struct *task = current_task();

	return task ? task->start_time : bpf_get_current_task();
}

#include "owner.h"

static __always_inline struct thread *find_thread(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);

	if (!thread || thread->depth == 0 || thread->identity != identity())
		return NULL;
	return thread;
}

static __always_inline void fill_task(struct record_header *header, struct task_struct *task)
{
	const struct cred *cred = task->cred;

	header->parent = task->real_parent->tgid;
	header->euid = cred->euid.val;
	header->egid = cred->egid.val;
	header->capabilities = *(u64 *)&cred->cap_effective;
	header->user_ns = cred->user_ns->ns.inum;
	header->mnt_ns = task->nsproxy->mnt_ns->ns.inum;
	header->kthread = (task->flags & PF_KTHREAD) != 0;
	if (bpf_core_field_exists(task->loginuid)) {
		header->has_auid = 1;
		header->auid = task->loginuid.val;
		header->session_id = task->sessionid;
	}
}

static __always_inline void fill_header(struct record_header *header, u32 kind, struct thread *thread)
{
	struct task_struct *task = current_task();
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u64 uid_gid = bpf_get_current_uid_gid();
	struct attempt *attempt = innermost(thread);

	__builtin_memset(header, 0, sizeof(*header));
	header->boot_ns = bpf_ktime_get_boot_ns();
	header->kind = kind;
	header->pid = pid_tgid >> 32;
	header->tid = pid_tgid;
	header->uid = uid_gid;
	header->gid = uid_gid >> 32;
	bpf_get_current_comm(header->comm, sizeof(header->comm));
	header->unread = UNREAD_UNTYPED;
	if (task)
		fill_task(header, task);
	else
		header->unread |= UNREAD_TASK;
	if (!attempt)
		return;
	header->attempt_ns = attempt->begin_ns;
	header->context_ns = attempt->begin_ns;
	attempt = attempt_at(thread, thread->depth - 1);
	if (attempt)
		header->parent_attempt_ns = attempt->begin_ns;
}

/*
 * Copies the last component of a dentry's path. Returns false for a long name,
 * which is behind a char pointer.
 */
static __always_inline bool copy_name(u64 *to, struct dentry *dentry)
{
	struct dentry___shortname *shortname = (void *)dentry;
	struct dentry___iname *iname = (void *)dentry;

	if (dentry->d_name.len >= INLINE_LEN)
		return 0;
#pragma unroll
	for (int i = 0; i < INLINE_LEN / sizeof(u64); i++) {
		if (bpf_core_field_exists(shortname->d_shortname))
			to[i] = *(u64 *)&shortname->d_shortname.string[i * sizeof(u64)];
		else
			to[i] = *(u64 *)&iname->d_iname[i * sizeof(u64)];
	}
	return 1;
}

/*
 * Writes a path up to the first name that cannot be read, or to the root of its
 * mount. All loops here are unrolled: the compiler's layout of loops has jumps that
 * older verifiers (5.10, 6.1) refuse.
 */
static __noinline int walk_path(struct walk *walk, struct dentry *dentry, struct dentry *root)
{
	walk->state = PATH_TRUNCATED;
	walk->components = 0;
#pragma unroll
	for (u32 i = 0; i < REACH; i++) {
		struct dentry *parent = dentry->d_parent;

		if (dentry == root) {
			walk->state = PATH_UNREACHABLE;
			return 0;
		}
		if (!copy_name((u64 *)walk->component[i], dentry))
			return 0;
		walk->components = i + 1;
		if (dentry == parent) {
			walk->state = PATH_DETACHED;
			return 0;
		}
		dentry = parent;
	}
	return 0;
}

/* The process that makes an attempt, on kernels with a helper for it. */

/* Begins a record of size bytes about a path of a process. */
static __always_inline struct path_record *begin_path(u64 context_ns, u32 role, u64 size)
{
	struct path_record *record = begin_record(RECORD_PATH, NULL, size);

	if (!record)
		return NULL;
	record->header.context_ns = context_ns;
	record->role = role;
	record->generation = 0;
	record->last = 0;
	record->has_exe = 0;
	record->path.state = PATH_NONE;
	record->path.components = 0;
	return record;
}

/*
 * Fills in the identity of a thread's process and returns its executable, or NULL. The
 * process's first thread may have exited, and then has no mm.
 */
static __always_inline struct file *fill_executable(struct path_record *record, struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	struct task_struct *leader = task->group_leader;
	u64 *comm = (u64 *)record->comm;

	record->last = task->tgid <= 1 || task->real_parent->tgid == 0;
	record->pid = task->tgid;
	record->uid = leader->cred->uid.val;
	record->has_exe = !(task->flags & PF_KTHREAD);
	comm[0] = *(u64 *)&leader->comm[0];
	comm[1] = *(u64 *)&leader->comm[sizeof(u64)];
	return mm ? mm->exe_file : NULL;
}

static __always_inline void send_cwd(u64 context_ns, struct task_struct *task)
{
	struct path_record *record = begin_path(context_ns, ROLE_CWD, WITH_PATH(struct path_record));

	if (!record)
		return;
	walk_path(&record->path, task->fs->pwd.dentry, task->fs->pwd.mnt->mnt_root);
	submit(record);
}

static __always_inline void send_executable(u64 context_ns, struct task_struct *task)
{
	struct path_record *record = begin_path(context_ns, ROLE_EXE, WITH_PATH(struct path_record));
	struct file *file;

	if (!record)
		return;
	file = fill_executable(record, task);
	if (file)
		walk_path(&record->path, file->f_path.dentry, file->f_path.mnt->mnt_root);
	submit(record);
}

/* Sends the record of an ancestor, without its path: more walks would exceed the verifier's limit. */
static __noinline int send_ancestor(u64 context_ns, struct task_struct *task, u32 generation)
{
	struct path_record *record = begin_path(context_ns, ROLE_EXE, offsetof(struct path_record, path.component));

	if (!record)
		return 0;
	record->generation = generation;
	if (fill_executable(record, task))
		record->path.state = PATH_TRUNCATED;
	submit(record);
	return 0;
}

/* Sends the records about the current process, with context_ns. */
static __noinline int send_process(u64 context_ns)
{
	struct task_struct *task = current_task();

	if (!task)
		return 0;
	send_cwd(context_ns, task);
	send_executable(context_ns, task);
#pragma unroll
	for (u32 i = 1; i <= ANCESTORS; i++) {
		if (task->tgid <= 1)
			return 0;
		task = task->real_parent; /* a live thread of the parent */
		if (task->tgid == 0)
			return 0;
		send_ancestor(context_ns, task, i);
	}
	return 0;
}

/*
 * Begins an attempt, which becomes the innermost if it can be kept. Only code of a
 * live module can make an attempt from inside another. Any other attempt that is
 * left has ended unseen.
 */
static __noinline int begin_attempt(u32 call)
{
	struct thread *thread = find_thread();
	struct attempt *attempt;

	if (!thread) {
		struct thread none = {.identity = identity()};
		u32 tid = bpf_get_current_pid_tgid();

		bpf_map_update_elem(&threads, &tid, &none, BPF_ANY);
		thread = bpf_map_lookup_elem(&threads, &tid);
		if (!thread)
			return 0;
	}
#pragma unroll
	for (int i = 0; i < DEPTH; i++) {
		attempt = innermost(thread);
		if (!attempt || (attempt->live && !attempt->returned))
			break;
		if (!attempt->returned)
			lose(attempt->owner);
		thread->depth--;
	}
	/* Volatile: older verifiers follow impossible branches of a comparison with a known value. */
	if (*(volatile u64 *)&thread->depth >= DEPTH) {
		lose(owner_at(OWNER_CURRENT));
		return 0;
	}
	thread->depth++;
	attempt = innermost(thread);
	if (!attempt)
		return 0;
	*attempt = (struct attempt){.call = call};
	own_attempt(attempt, call != 0);
	if (is_own(attempt->owner))
		send_process(attempt->begin_ns);
	return 0;
}

/* The file or buffer that the kernel is about to read. */

static __always_inline void fill_times(struct file_record *record, struct inode *inode)
{
	struct inode___timespec *timespec = (void *)inode;
	struct inode___hidden *hidden = (void *)inode;

	if (bpf_core_field_exists(inode->i_mtime_sec))
		record->mtime = inode->i_mtime_sec;
	else if (bpf_core_field_exists(hidden->__i_mtime))
		record->mtime = hidden->__i_mtime.tv_sec;
	else
		record->mtime = timespec->i_mtime.tv_sec;

	if (bpf_core_field_exists(inode->i_ctime_sec)) {
		record->ctime = inode->i_ctime_sec;
		record->ctime_nsec = inode->i_ctime_nsec;
	} else if (bpf_core_field_exists(hidden->__i_ctime)) {
		record->ctime = hidden->__i_ctime.tv_sec;
		record->ctime_nsec = hidden->__i_ctime.tv_nsec;
	} else {
		record->ctime = timespec->i_ctime.tv_sec;
		record->ctime_nsec = timespec->i_ctime.tv_nsec;
	}
}

/* Begins the record of a read; NULL if there is no room, or another set sends it. */
static __always_inline struct file_record *take(u32 kind, u32 call, u32 id, bool is_module)
{
	struct thread *thread = NULL;
	struct file_record *record;

	if (is_module) {
		begin_attempt(call);
		thread = find_thread();
	}
	if (!is_own(owner_of(innermost(thread))))
		return NULL;
	record = begin_record(kind, thread, WITH_PATH(struct file_record));
	if (!record)
		return NULL;
	record->id = id;
	record->is_module = is_module;
	record->has_arguments = 0;
	record->size = 0;
	record->flags = 0;
	record->filesystem[0] = 0;
	record->path.state = PATH_NONE;
	record->path.components = 0;
	return record;
}

SEC("fentry/security_kernel_read_file")
int fentry_security_kernel_read_file(u64 *ctx)
{
	struct file *file = (struct file *)ctx[0];
	u32 id = ctx[1];
	struct file_record *record = take(RECORD_READ_FILE, CALL_FINIT_MODULE, id, is_module_read(id));
	struct inode *inode;

	if (!record)
		return 0;
	inode = file->f_inode;
	record->inode = inode->i_ino;
	record->size = inode->i_size;
	record->links = inode->i_nlink;
	record->device = inode->i_sb->s_dev;
	fill_times(record, inode);
	record->unhashed = file->f_path.dentry->d_hash.pprev == NULL;
	record->mnt_internal = (file->f_path.mnt->mnt_flags & MNT_INTERNAL) != 0;
	walk_path(&record->path, file->f_path.dentry, file->f_path.mnt->mnt_root);
	submit(record);
	return 0;
}

SEC("fentry/security_kernel_load_data")
int fentry_security_kernel_load_data(u64 *ctx)
{
	u32 id = ctx[0];
	struct file_record *record = take(RECORD_LOAD_DATA, CALL_INIT_MODULE, id, is_module_data(id));

	if (record)
		submit(record);
	return 0;
}

/* From the image to the module. */

SEC("fentry/load_module")
int fentry_load_module(u64 *ctx)
{
	struct load_info *info = (struct load_info *)ctx[0];
	struct attempt *attempt = innermost(find_thread());
	struct image_record *record;

	/* An attempt whose beginning was not seen is kept too: it returns. */
	if (!attempt || attempt->entered) {
		begin_attempt(0);
		attempt = innermost(find_thread());
	}
	if (!attempt || attempt->entered)
		return 0;
	attempt->entered = 1;
	attempt->size = info->len;
	attempt->flags = (u32)ctx[2];
	if (!is_own(attempt->owner))
		return 0;
	record = begin_record(RECORD_IMAGE, find_thread(), sizeof(*record));
	if (!record)
		return 0;
	/* The reader looks for the image in its file. */
	record->size = attempt->size;
	record->state = IMAGE_UNREADABLE;
	record->flags = attempt->flags;
	submit(record);
	return 0;
}

SEC("fexit/mod_verify_sig")
int fexit_mod_verify_sig(u64 *ctx)
{
	struct attempt *attempt = innermost(find_thread());

	if (attempt && attempt->entered && !attempt->returned) {
		attempt->verified = 1;
		attempt->verdict = (s32)ctx[2];
	}
	return 0;
}

static __always_inline int module_event(u32 kind, struct module *module, struct thread *thread)
{
	struct attempt *attempt = innermost(thread);
	struct module_record *record;
	u64 *name;

	if (!is_own(owner_of(attempt)))
		return 0;
	record = begin_module(kind, thread, attempt);
	if (!record)
		return 0;
	if (bpf_core_field_exists(module->sig_ok))
		record->sig_ok = module->sig_ok ? SIG_OK_YES : SIG_OK_NO;
	record->taints = module->taints;
	name = (u64 *)record->name;
#pragma unroll
	for (int i = 0; i < MODULE_NAME_LEN / sizeof(u64); i++)
		name[i] = *(u64 *)&module->name[i * sizeof(u64)];
	record->name[MODULE_NAME_LEN] = 0;
	submit(record);
	return 0;
}

SEC("tp_btf/module_load")
int tp_btf_module_load(u64 *ctx)
{
	struct thread *thread = find_thread();
	struct attempt *attempt = innermost(thread);

	if (attempt)
		attempt->live = 1;
	return module_event(RECORD_MODULE_LOAD, (struct module *)ctx[0], thread);
}

SEC("tp_btf/module_free")
int tp_btf_module_free(u64 *ctx)
{
	struct attempt *attempt = innermost(find_thread());

	/* A module whose init fails is freed within its own attempt. */
	if (!attempt || !attempt->live || attempt->returned)
		begin_attempt(CALL_DELETE_MODULE);
	return module_event(RECORD_MODULE_FREE, (struct module *)ctx[0], find_thread());
}

/* Its name is behind a char pointer. */
SEC("tp_btf/module_request")
int tp_btf_module_request(u64 *ctx)
{
	u64 owner = owner_of(innermost(find_thread()));
	u64 request_ns = stamped_ns(STAMP_HOOK);
	struct module_record *record;

	if (!is_own(owner))
		return 0;
	if (is_crowded()) {
		count(COUNTER_SHED);
		return 0;
	}
	send_process(request_ns);
	record = begin_module(RECORD_MODULE_REQUEST, NULL, NULL);
	if (!record)
		return 0;
	record->header.attempt_ns = request_ns;
	record->header.context_ns = request_ns;
	submit(record);
	return 0;
}

/* Results. */

static __always_inline void fill_denied_key(struct denied_key *key, u32 call)
{
	struct task_struct *task = current_task();
	struct mm_struct *mm;
	struct file *file;

	key->call = call;
	key->uid = bpf_get_current_uid_gid();
	if (!task)
		return;
	key->euid = task->cred->euid.val;
	mm = task->mm;
	file = mm ? mm->exe_file : NULL;
	if (!file)
		return;
	key->exe_inode = file->f_inode->i_ino;
	key->exe_device = file->f_inode->i_sb->s_dev;
}

/* Sends the result of a call: that of the thread's innermost attempt, or one without an attempt. */
static __always_inline void send_call(u32 call, s64 result, struct thread *thread)
{
	struct attempt *attempt = innermost(thread);
	struct system_call_record *record;
	struct denied_key key = {};
	bool is_denied = result == -EPERM && !attempt;
	u64 now = bpf_ktime_get_boot_ns();

	if (is_denied) {
		fill_denied_key(&key, call);
		if (!count_denied(&key))
			return;
	}
	if (!attempt)
		send_process(now);
	record = begin_call(call, result, thread, attempt);
	if (!record)
		return;
	if (!attempt) {
		record->header.attempt_ns = now;
		record->header.context_ns = now;
	}
	record->header.taken = attempt != NULL;
	record->denied = is_denied;
	record->inode = key.exe_inode;
	record->device = key.exe_device;
	record->has_arguments = attempt && attempt->entered;
	submit(record);
}

/* Returns the thread whose innermost attempt load_module returns from, or NULL. */
static __always_inline struct thread *leave_load_module(void)
{
	struct thread *thread = find_thread();
	struct attempt *attempt;

	if (!thread)
		return NULL;
#pragma unroll
	for (int i = 0; i < DEPTH; i++) {
		attempt = innermost(thread);
		if (!attempt)
			return NULL;
		if (attempt->entered && !attempt->returned) {
			attempt->returned = 1;
			return thread;
		}
		thread->depth--;
	}
	return NULL;
}

SEC("fexit/load_module")
int fexit_load_module(u64 *ctx)
{
	leave_load_module();
	return 0;
}

/* Instead of the system calls' returns, on kernels where those cannot be traced. */
SEC("fexit/load_module")
int fexit_load_module_result(u64 *ctx)
{
	struct thread *thread = leave_load_module();
	struct attempt *attempt = innermost(thread);
	bool is_ours = is_own(own_return(attempt));

	if (!attempt)
		return 0;
	if (is_ours && attempt->call)
		send_call(attempt->call, (s32)ctx[3], thread);
	else if (is_ours)
		count(COUNTER_LOST);
	end_call(thread);
	return 0;
}

SEC("fexit/free_module")
int fexit_free_module_result(u64 *ctx)
{
	struct thread *thread = find_thread();
	struct attempt *attempt = innermost(thread);

	if (attempt && attempt->call == CALL_DELETE_MODULE) {
		if (is_own(own_return(attempt)))
			send_call(CALL_DELETE_MODULE, 0, thread);
		end_call(thread);
	}
	return 0;
}

static __always_inline int exit_module_call(u32 call, s64 returned)
{
	struct thread *thread = find_thread();
	struct attempt *attempt = innermost(thread);

	/* While load_module runs, the call was made from inside it, and has no attempt. */
	if (!attempt || (attempt->call && attempt->call != call) || (attempt->entered && !attempt->returned))
		thread = NULL;
	if (is_own(own_return(attempt)))
		send_call(call, (s32)returned, thread); /* the calls return int */
	if (thread)
		end_call(thread);
	return 0;
}

/* Where only load_module is traced, a call that was refused before it leaves its attempt behind. */
SEC("tp_btf/sched_process_exit")
int tp_btf_sched_process_exit(u64 *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();

	/* This runs for every thread of every process; the lookup takes no lock. */
	if (bpf_map_lookup_elem(&threads, &tid))
		bpf_map_delete_elem(&threads, &tid);
	return 0;
}

#define SYSTEM_CALL(name, CALL)                           \
	SEC("fexit/sys_" #name)                           \
	int fexit_sys_##name(u64 *ctx)                    \
	{                                                 \
		return exit_module_call(CALL, ctx[1]);    \
	}

SYSTEM_CALL(init_module, CALL_INIT_MODULE)
SYSTEM_CALL(finit_module, CALL_FINIT_MODULE)
SYSTEM_CALL(delete_module, CALL_DELETE_MODULE)

#if defined(__TARGET_ARCH_x86)
SYSTEM_CALL(ia32_init_module, CALL_INIT_MODULE)
SYSTEM_CALL(ia32_finit_module, CALL_FINIT_MODULE)
SYSTEM_CALL(ia32_delete_module, CALL_DELETE_MODULE)
#endif

char LICENSE[] SEC("license") = "Dual BSD/GPL";
