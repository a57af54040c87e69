package printk

// Linux's error numbers, which are not those of every system that this package
// compiles on (include/uapi/asm-generic/errno-base.h, errno.h).
const (
	eperm        = 1
	enoent       = 2
	esrch        = 3
	enoexec      = 8
	enomem       = 12
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
