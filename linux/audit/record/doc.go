// Package record reads what the kernel's audit subsystem writes of module
// system calls: single records, as the kernel hands them out and as the audit
// daemon logs them, and the events that several records make up. It is pure: it
// opens nothing and keeps no clock.
//
// A record's text is partly made of what users choose. The kernel encodes that
// (kernel/audit.c, audit_log_n_untrustedstring), and what programs send through
// audit has record types of its own. So a record is judged by its type and its
// first occurrence of a field, and never searched.
package record
