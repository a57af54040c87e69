package bpf

//go:generate go tool bpf2go -go-package bpf -tags linux -target amd64,arm64 -type record_header -type record_counts -type record_kind -type system_call -type path_state -type counter -type system_call_record -type module_record -type file_record -type image_state -type image_record -type image_chunk -type path_role -type path_record -type cmdline_record -type params_record -type sig_ok -type unread -type owner_index module module.bpf.c -- -Wall -Werror
//go:generate go tool bpf2go -go-package bpf -tags linux -target amd64,arm64 -no-global-types locked locked.bpf.c -- -Wall -Werror
