// Package kmod holds tiny kernel modules that do what tests need and Debian's
// modules do not. They are compiled without kernel headers, for amd64 and arm64, and
// [Build] fits them to the running kernel by its BTF. The kernel takes them
// because Debian builds it with CONFIG_MODULE_FORCE_LOAD; they taint it. [Sign], [Strip], [Forge] and [Overlong] change the
// signature of any module.
//
// The package imports no other of the project.
package kmod
