// Package kmod has small kernel modules for tests of behaviour that Debian's modules
// lack. They are compiled without kernel headers, for amd64 and arm64, and [Build]
// adapts them to the running kernel by its BTF. The kernel accepts them because Debian
// builds it with CONFIG_MODULE_FORCE_LOAD; they taint it. [Sign], [Strip], [Forge] and
// [Overlong] change the signature of any module.
//
// The package imports no other package of the project.
package kmod
