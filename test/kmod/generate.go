package kmod

//go:generate clang -target x86_64-linux-gnu -O2 -Wall -Werror -ffreestanding -fno-pic -mcmodel=kernel -mno-red-zone -mno-sse -fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=branch -c firmware.c -o firmware_amd64.o
//go:generate clang -target x86_64-linux-gnu -O2 -Wall -Werror -ffreestanding -fno-pic -mcmodel=kernel -mno-red-zone -mno-sse -fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=branch -c nested.c -o nested_amd64.o
