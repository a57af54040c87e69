/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The records in the ring buffers, and the values of maps. bpf2go turns them into
 * Go types, which decode.go reads. A field is named like its SQL column, if it has
 * one.
 */
#ifndef KMODQUERY_RECORD_H
#define KMODQUERY_RECORD_H

#define COMM_LEN 16
#define MODULE_NAME_LEN 56    /* include/linux/module.h, 64 - sizeof(unsigned long) */
#define MODULE_TEXT_LEN 64    /* version, srcversion */
#define PARAMS_LEN 1024
#define CMDLINE_LEN 4096
#define FS_NAME_LEN 32
#define COMPONENT_LEN 256     /* NAME_MAX and its NUL */
#define COMPONENTS 32
#define ANCESTORS 16
#define CHUNK_LEN 65536
#define CHUNK_STEP 1024
#define NOT_READ -1
#define REQUEST_UNKNOWN 1     /* the kernel started an ancestor that has ended */
#define CANARY 2                /* system_call_record.denied of a call of the reader itself, which is not counted */
#define RECORD_KINDS 16         /* more than there are, a power of two */

enum record_kind {
	RECORD_SYSTEM_CALL = 1, /* struct system_call_record */
	RECORD_READ_FILE,       /* struct file_record */
	RECORD_LOAD_DATA,       /* struct file_record without a file */
	RECORD_MODULE_LOAD,     /* struct module_record */
	RECORD_MODULE_FREE,     /* struct module_record */
	RECORD_MODULE_REQUEST,  /* struct module_record, only the name */
	RECORD_IMAGE,           /* struct image_record */
	RECORD_PATH,            /* struct path_record */
	RECORD_CMDLINE,         /* struct cmdline_record */
	RECORD_PARAMS,          /* struct params_record */
};

enum system_call {
	CALL_INIT_MODULE = 1,
	CALL_FINIT_MODULE,
	CALL_DELETE_MODULE,
};

enum path_state {
	PATH_NONE,        /* no path */
	PATH_WHOLE,       /* the components reach the root of the mount namespace, or of the hierarchy */
	PATH_DETACHED,    /* they reach a file that is in no folder: memfd */
	PATH_UNREACHABLE, /* they reach the root of a mount that the thread's namespace lacks */
	PATH_TRUNCATED,   /* there are more than COMPONENTS */
};

enum path_role {
	ROLE_EXE,         /* executable of the process, or of its ancestor */
	ROLE_CWD,
	ROLE_CGROUP,      /* in the default (v2) hierarchy */
	ROLE_CGROUP_V1,   /* in that of the pids or memory controller, if it is another one */
};

enum image_state {
	IMAGE_WHOLE = 1,  /* every byte is in the ring of images */
	IMAGE_OVER_LIMIT,
	IMAGE_LOST,       /* the ring of images had no room */
	IMAGE_UNREADABLE,
};

enum sig_ok {
	SIG_OK_UNKNOWN,   /* CONFIG_MODULE_SIG is off */
	SIG_OK_NO,
	SIG_OK_YES,
};

/* The fields that a program could not read and left zero, a bit each. */
enum unread {
	UNREAD_TASK = 1,    /* all that is reached through struct task_struct */
	UNREAD_UNTYPED = 2, /* all that no typed pointer leads to: strings, the innermost pid namespace, requests */
};

enum counter {
	COUNTER_LOST,     /* records for which the ring had no room, and returns that were missed */
	COUNTER_DENIED,   /* plus enum system_call: denied calls for which the map of them had no room */
	COUNTER_SHED = COUNTER_DENIED + CALL_DELETE_MODULE + 1, /* of COUNTER_LOST, those that any user can cause: counted here only */
	COUNTERS,
};

struct record_header {
	__u64 boot_ns;           /* CLOCK_BOOTTIME */
	__u64 attempt_ns;        /* when this attempt began; with tid its identity; 0 unknown */
	__u64 parent_attempt_ns; /* the attempt that this one was made from; 0 none */
	__u64 context_ns;        /* with tid, identifies the records about its process; 0 none was sent */
	__u64 request_ns;        /* the request or load, by thread request_tid, for which the kernel started this process; 0 none */
	__u64 capabilities;      /* effective */
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
	__u32 kthread;           /* a kernel thread */
	__u32 request_tid;       /* without request_ns: 0 or REQUEST_UNKNOWN */
	__u32 mnt_ns;
	__u32 pid_ns;
	__u32 user_ns;
	enum unread unread;      /* a mask */
	__u32 taken;             /* of a system call: the kernel took a module; 0 in records of older builds */
	__u8 comm[COMM_LEN];
	/* Last: older builds, up to layout 2, sent records without the two. */
	__u64 number;            /* of this record among those of its kind and cpu, from 1 on; 0 not numbered */
	__u64 cpu;               /* index in the map of counts */
};

struct system_call_record {
	struct record_header header;
	__s64 result;
	__u64 flags;
	__u64 size;              /* init_module's len; of a CANARY settings.canary */
	/*
	 * If denied, the program's: with call, uid and euid, the key in the map of denied calls.
	 * Otherwise that of finit_module's file if the kernel took no module; 0 unknown.
	 */
	__u64 inode;
	enum system_call call;
	__s32 params_len;        /* from bpf_probe_read_user_str, or NOT_READ; also if a params_record was sent */
	__s32 name_len;          /* from bpf_probe_read_user_str, or NOT_READ, of delete_module's name */
	__u32 has_arguments;     /* its entry was seen: size, flags and strings are set */
	__u32 denied;            /* 1 if refused with EPERM before the kernel took a byte, or CANARY */
	__u32 device;            /* with inode */
	__u32 verified;          /* mod_verify_sig ran, and verdict is what it returned */
	__s32 verdict;
	__u8 name[MODULE_TEXT_LEN];
	__u8 params[PARAMS_LEN];
};

struct module_record {
	struct record_header header;
	__u64 taints;
	__s32 params_len;        /* this and the next two as in struct system_call_record */
	__u32 verified;
	__s32 verdict;
	enum sig_ok sig_ok;
	__u8 name[MODULE_TEXT_LEN];
	__u8 version[MODULE_TEXT_LEN];
	__u8 srcversion[MODULE_TEXT_LEN];
	__u8 params[PARAMS_LEN];
};

/* Sent without the components that are not in use. */
struct walk {
	enum path_state state;
	__u32 components;        /* number of components in use */
	__u8 component[COMPONENTS][COMPONENT_LEN]; /* the file first, its root last; one may be empty */
};

struct file_record {
	struct record_header header;
	__u64 inode;
	__u64 size;              /* of the file, or init_module's len */
	__u64 flags;             /* of finit_module */
	__s64 mtime;
	__s64 ctime;
	__u32 ctime_nsec;
	__u32 id;                /* enum kernel_read_file_id or kernel_load_data_id of this kernel */
	__u32 is_module;
	__u32 device;            /* the kernel's own dev_t */
	__u32 links;
	__u32 unhashed;          /* the name was removed from its folder */
	__u32 mnt_internal;      /* a mount that only the kernel has: memfd */
	__u32 has_arguments;     /* the system call's entry was seen: flags and len are set */
	__u8 filesystem[FS_NAME_LEN];
	struct walk path;
};

/* The image that the kernel has read. */
struct image_record {
	struct record_header header;
	__u64 size;
	enum image_state state;
	__u32 flags;             /* of finit_module, if they were not known before; else 0 */
};

/*
 * A part of an image, followed by its bytes. It is the only kind of record in the
 * ring of images. All but the last part have CHUNK_LEN bytes. The record of the last
 * part has less than CHUNK_STEP unused bytes.
 */
struct image_chunk {
	__u64 attempt_ns;
	__u64 size;              /* of the whole image */
	__u64 offset;
	__u32 tid;
	__u32 len;
};

/* A path of a process. The header is that of the loader. */
struct path_record {
	struct record_header header;
	enum path_role role;
	__u32 generation;        /* 0 the process itself, 1 its parent and so on; of ROLE_CGROUP: 1 if a ROLE_CGROUP_V1 follows */
	__u32 pid;
	__u32 uid;
	__u32 last;              /* it has no ancestor, or this is process 1 */
	__u32 has_exe;           /* it is no kernel thread */
	__u8 comm[COMM_LEN];
	struct walk path;
};

struct cmdline_record {
	struct record_header header;
	__u32 truncated;
	__s32 error;             /* -errno of the reading */
	__u64 len;
	__u8 cmdline[CMDLINE_LEN];
};

/* The parameters of a module, from the kernel's copy. */
struct params_record {
	struct record_header header;
	__s32 params_len;        /* from bpf_probe_read_kernel_str */
	__u32 reserved;
	__u8 params[PARAMS_LEN];
};

/* By kind, the records of one processor. */
struct record_counts {
	__u64 sent[RECORD_KINDS]; /* the number of the last one */
	__u64 seen[RECORD_KINDS]; /* the highest number that a reader has read; only readers use it */
};

/* Key and value of the map of denied calls. */
struct denied_key {
	__u64 exe_inode;
	__u32 exe_device;
	enum system_call call;
	__u32 uid;
	__u32 euid;
};

struct denied_calls {
	__u64 count;             /* since the entry was made */
	__u64 epoch;             /* settings.epoch when the last record was sent */
	__u64 since_ns;          /* CLOCK_BOOTTIME when the entry was made */
};

/* The reader's settings for the programs. */
struct reader_settings {
	__u64 image_limit;       /* bytes; larger images are not streamed */
	__u64 epoch;             /* one record of each kind of denied calls is sent in each epoch; all are counted */
	__u64 set;               /* the number of this set of programs */
	__u64 canary;            /* the third argument of an init_module that is a CANARY if it is denied; 0 none is */
};

#endif
