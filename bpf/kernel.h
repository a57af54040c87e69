/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's types as far as these programs read them. Offsets are filled in
 * at load time from the running kernel's BTF (CO-RE), so only names and types
 * matter here, and every difference between kernels stands in this file with
 * the version it came with.
 */
#ifndef KMODQUERY_KERNEL_H
#define KMODQUERY_KERNEL_H

/* libbpf's headers require this of a file that defines the kernel's types. */
#define __VMLINUX_H__

typedef unsigned char __u8;
typedef signed short __s16;
typedef unsigned short __u16;
typedef signed int __s32;
typedef unsigned int __u32;
typedef signed long long __s64;
typedef unsigned long long __u64;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum bpf_func_id { BPF_FUNC_get_current_task_btf = 158 }; /* from 5.11, 3ca1032ab7ab */

enum { BPF_ANY = 0, BPF_NOEXIST = 1 };
enum { BPF_F_MMAPABLE = 1 << 10 };
enum { BPF_RB_AVAIL_DATA = 0 };
enum { BPF_RB_FORCE_WAKEUP = 1 << 1 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common { unsigned int inum; };

struct pid_namespace { struct ns_common ns; };

struct user_namespace {
	int level;
	struct ns_common ns;
};

struct mnt_namespace {
	struct ns_common ns;
	struct mount *root;
};

struct nsproxy { struct mnt_namespace *mnt_ns; };

struct upid { int nr; struct pid_namespace *ns; };

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

typedef struct {
	u64 val; /* from 6.3, f122a08b197d; two u32, the low one first, before */
} kernel_cap_t;

struct cred {
	struct { u32 val; } uid, gid, euid, egid;
	kernel_cap_t cap_effective;
	struct user_namespace *user_ns;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct fs_struct { struct path pwd; };

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct { struct fdtable *fdt; };

struct kernfs_node {
	const char *name;
	struct kernfs_node *parent;
};

/* from 6.15, 633488947ef6 */
struct kernfs_node___rcu { struct kernfs_node *__parent; };

struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct cgroup_subsys_state { struct cgroup *cgroup; };

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
};

enum pid_type { PIDTYPE_SID = 3 };

struct signal_struct { struct pid *pids[PIDTYPE_SID + 1]; };

struct task_struct {
	unsigned int flags;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct signal_struct *signal;
	const struct cred *cred;
	u64 start_time;
	char comm[16];
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct css_set *cgroups;       /* CONFIG_CGROUPS */
	struct { u32 val; } loginuid;  /* CONFIG_AUDIT */
	u32 sessionid;                 /* CONFIG_AUDIT */
};

struct qstr {
	u32 len;
	const unsigned char *name;
};

struct hlist_bl_node { struct hlist_bl_node **pprev; };

struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
};

/* Where a name lies that is short enough. The arrays have at least 32 bytes. To 6.13. */
struct dentry___iname { unsigned char d_iname[32]; };

/* from 6.14 */
struct dentry___shortname { struct { unsigned char string[32]; } d_shortname; };

struct vfsmount {
	struct dentry *mnt_root;
	int mnt_flags;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};

struct file_system_type { const char *name; };

struct super_block {
	u32 s_dev;
	struct file_system_type *s_type;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned int i_nlink;
	s64 i_size;
	s64 i_mtime_sec; /* from 6.11, 3aa63a569c64 */
	s64 i_ctime_sec;
	u32 i_ctime_nsec;
};

/* to 6.6 for i_ctime, 13bc24457850; to 6.6 for i_mtime, 12cd44023651 */
struct inode___timespec {
	struct timespec64 i_mtime;
	struct timespec64 i_ctime;
};

/* between the two */
struct inode___hidden {
	struct timespec64 __i_mtime;
	struct timespec64 __i_ctime;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
};

struct load_info { unsigned long len; };

struct module {
	char name[56];
	const char *version;
	const char *srcversion;
	unsigned long taints;
	bool sig_ok; /* CONFIG_MODULE_SIG */
};

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs { u64 regs[31]; };
struct pt_regs { struct user_pt_regs user_regs; };
#else
#error "no struct pt_regs for this architecture"
#endif

#pragma clang attribute pop

#endif
