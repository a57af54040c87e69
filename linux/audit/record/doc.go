// Package record parses the audit records of module system calls, as the kernel sends
// them and as the audit daemon logs them, and assembles the records of each call to an
// event. It is pure: it opens nothing and reads no clock.
//
// Users choose parts of a record's text. The kernel encodes those parts (kernel/audit.c,
// audit_log_n_untrustedstring), and messages of programs have record types of their own.
// So the package reads only a record's type and the first occurrence of each field, and
// never searches the text.
package record
