package bpf

// systemCallPrefix begins the name of a system call's function (arch/arm64/include/asm/syscall_wrapper.h).
const systemCallPrefix = "__arm64_sys_"
