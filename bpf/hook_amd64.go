package bpf

// systemCallPrefix begins the name of a system call's function (arch/x86/include/asm/syscall_wrapper.h).
const systemCallPrefix = "__x64_sys_"
