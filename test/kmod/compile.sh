#!/bin/sh
# Compiles the modules named, for amd64 and, unless ARCHS is amd64, for arm64, into NAME_ARCH.o.
set -e
flags="-O2 -Wall -Werror -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables"
for name; do
	# shellcheck disable=SC2086
	clang -target x86_64-linux-gnu $flags -mcmodel=kernel -mno-red-zone -mno-sse -fcf-protection=branch -pg -mfentry \
		-c "$name.c" -o "${name}_amd64.o"
	[ "${ARCHS:-arm64}" = arm64 ] || continue
	# shellcheck disable=SC2086
	clang -target aarch64-linux-gnu $flags -mgeneral-regs-only -mbranch-protection=none -ffixed-x18 \
		-c "$name.c" -o "${name}_arm64.o"
done
