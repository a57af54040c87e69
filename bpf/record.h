/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What travels through the ring buffer. bpf2go turns these into Go types and
 * decode.go reads them; nothing else knows this layout. Field names are those
 * of the SQL columns where there is a column.
 */
#ifndef KMODQUERY_RECORD_H
#define KMODQUERY_RECORD_H

#define COMM_LEN 16
#define MODULE_NAME_LEN 56    /* include/linux/module.h, 64 - sizeof(unsigned long) */
#define MODULE_TEXT_LEN 64    /* version, srcversion */
#define PARAMS_LEN 1024
#define FS_NAME_LEN 32
#define COMPONENT_LEN 256     /* NAME_MAX and its NUL */
#define COMPONENTS 32
#define NOT_READ -1

enum record_kind {
	RECORD_SYSTEM_CALL = 1, /* struct system_call_record */
	RECORD_READ_FILE,       /* struct file_record */
	RECORD_LOAD_DATA,       /* struct file_record without a file */
	RECORD_MODULE_LOAD,     /* struct module_record */
	RECORD_MODULE_FREE,     /* struct module_record */
	RECORD_MODULE_REQUEST,  /* struct module_record, only the name */
};

enum system_call {
	CALL_INIT_MODULE = 1,
	CALL_FINIT_MODULE,
	CALL_DELETE_MODULE,
};

enum path_state {
	PATH_NONE,        /* there is no file */
	PATH_WHOLE,       /* the components reach the root of the mount namespace */
	PATH_DETACHED,    /* they reach a file that lies in no folder: memfd */
	PATH_UNREACHABLE, /* they reach the root of a mount that the thread's namespace lacks */
	PATH_TRUNCATED,   /* there are more than COMPONENTS */
};

enum counter {
	COUNTER_LOST,     /* records for which the ring had no room, and returns that went unseen */
	COUNTERS,
};

struct record_header {
	__u64 boot_ns;           /* CLOCK_BOOTTIME */
	__u64 attempt_ns;        /* when this attempt began; with tid its identity; 0 unknown */
	__u64 parent_attempt_ns; /* the attempt from inside which it was made; 0 none */
	enum record_kind kind;
	__u32 pid;
	__u32 tid;
	__u32 parent;
	__u32 uid;
	__u32 euid;
	__u32 gid;
	__u32 egid;
	__u32 auid;
	__u32 session_id;
	__u32 has_auid;          /* the kernel has CONFIG_AUDIT */
	__u32 reserved;
	__u8 comm[COMM_LEN];
};

struct system_call_record {
	struct record_header header;
	__s64 result;
	__u64 flags;
	__u64 size;              /* init_module's len */
	enum system_call call;
	__s32 params_len;        /* from bpf_probe_read_user_str, or NOT_READ */
	__s32 name_len;          /* likewise, of delete_module's name */
	__u32 has_arguments;     /* its entry was seen: size, flags and texts mean something */
	__u8 name[MODULE_TEXT_LEN];
	__u8 params[PARAMS_LEN];
};

struct module_record {
	struct record_header header;
	__u64 taints;
	__s32 params_len;        /* from bpf_probe_read_user_str, or NOT_READ */
	__u32 reserved;
	__u8 name[MODULE_TEXT_LEN];
	__u8 version[MODULE_TEXT_LEN];
	__u8 srcversion[MODULE_TEXT_LEN];
	__u8 params[PARAMS_LEN];
};

struct file_record {
	struct record_header header;
	__u64 inode;
	__u64 size;              /* of the file, or init_module's len */
	__u64 flags;             /* of finit_module */
	__s64 mtime;
	__s64 ctime;
	__u32 id;                /* enum kernel_read_file_id or kernel_load_data_id of this kernel */
	__u32 is_module;
	__u32 device;            /* the kernel's own dev_t */
	__u32 links;
	__u32 unhashed;          /* the name was removed from its folder */
	__u32 mnt_internal;      /* a mount that only the kernel has: memfd */
	enum path_state path_state;
	__u32 components;        /* how many slots of path are in use */
	__u32 has_arguments;     /* the system call's entry was seen: flags and len mean something */
	__u32 reserved;
	__u8 filesystem[FS_NAME_LEN];
	__u8 path[COMPONENTS][COMPONENT_LEN]; /* the file first, its root last; a slot may be empty */
};

#endif
