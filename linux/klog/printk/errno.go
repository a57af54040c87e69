package printk

// Linux's error numbers (include/uapi/asm-generic/errno-base.h, errno.h). Other systems
// that this package compiles on have different ones.
const (
	eperm        = 1
	enoent       = 2
	esrch        = 3
	enoexec      = 8
	enomem       = 12
	eacces       = 13
	eexist       = 17
	enodev       = 19
	einval       = 22
	enospc       = 28
	enopkg       = 65
	ebadmsg      = 74
	enokey       = 126
	ekeyrejected = 129
)

func failed(errno int64) *int64 { return new(-errno) }
