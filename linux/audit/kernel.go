//go:build linux

package audit

import (
	"errors"
	"fmt"
	"os"
	"time"

	libaudit "github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// auditKernel is what the audit source needs of the kernel's audit.
type auditKernel interface {
	// Record waits until the deadline for the next record, and returns one that
	// is there even when the deadline has passed (os.ErrDeadlineExceeded). The
	// text is valid until the next call. unix.ENOBUFS says that some were lost.
	Record() (auparse.AuditMessageType, []byte, error)
	// SetDeadline may be called while Record waits.
	SetDeadline(time.Time) error
	// Drops counts the records that were lost since the socket was opened.
	Drops() int64

	Status() (*libaudit.AuditStatus, error)
	SetEnabled(bool) error
	// SetBacklog sets how many records may wait in the kernel, and how long, in
	// jiffies, a call waits for room.
	SetBacklog(limit, waitTime uint32) error
	// Rules returns the rules of all lists, as struct audit_rule_data.
	Rules() ([][]byte, error)
	AddRule(rule []byte) error
	DeleteRule(rule []byte) error
	Close() error
}

// netlinkAudit is the running kernel's audit. Records come over the group for
// readers, which leaves the audit daemon alone, present or to come: the kernel
// never waits for a reader of the group, and drops what it has no room for.
type netlinkAudit struct {
	records *auditSocket
	control *libaudit.AuditClient
}

// openAudit asks the kernel for all records from now on. An error that matches
// errAuditForbidden says that this process may not.
func openAudit() (auditKernel, error) {
	if _, err := os.Stat("/proc/modules"); errors.Is(err, os.ErrNotExist) {
		return nil, &kmodquery.NotSupportedError{Missing: "this kernel cannot load modules", Need: "a kernel built with CONFIG_MODULES"}
	}
	records, err := openAuditSocket(1 << (libaudit.NetlinkGroupReadLog - 1))
	if err != nil {
		return nil, forbidden(err)
	}
	control, err := openAuditSocket(libaudit.NetlinkGroupNone)
	if err != nil {
		return nil, errors.Join(forbidden(err), records.Close())
	}
	k := &netlinkAudit{records: records, control: &libaudit.AuditClient{Netlink: control}}
	if _, err := k.Status(); err != nil {
		return nil, errors.Join(forbidden(err), k.Close())
	}
	if err := isInitialNetwork(); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// errAuditForbidden is matched by errors that say that this process may not read
// the kernel's audit, though others may.
var errAuditForbidden = errors.New("audit is out of reach")

// forbidden tells a process without rights from a host without audit.
func forbidden(err error) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return &kmodquery.NotSupportedError{Missing: noAudit, Need: "CONFIG_AUDIT and CONFIG_AUDITSYSCALL, and no audit=0 on the kernel's command line"}
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %w; run as root, or with CAP_AUDIT_CONTROL and CAP_AUDIT_READ, in the host's process namespace", errAuditForbidden, err)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w: %w; run in the host's user namespace", errAuditForbidden, err)
	}
	return err
}

// isInitialNetwork fails where the group for readers never hears anything: the
// kernel serves it in its first network namespace only.
func isInitialNetwork() error {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil // a kernel without network namespaces
	}
	first, err := os.Readlink("/proc/1/ns/net")
	if err == nil && own != first {
		return fmt.Errorf("%w: %s is not the host's network namespace; run in that", errAuditForbidden, own)
	}
	return nil
}

func (k *netlinkAudit) Record() (auparse.AuditMessageType, []byte, error) { return k.records.record() }

func (k *netlinkAudit) SetDeadline(at time.Time) error { return k.records.file.SetReadDeadline(at) }

func (k *netlinkAudit) Drops() int64 { return k.records.drops() }

func (k *netlinkAudit) Status() (*libaudit.AuditStatus, error) {
	status, err := k.control.GetStatus()
	if err != nil {
		return nil, fmt.Errorf("ask for audit's status: %w", err)
	}
	return status, nil
}

func (k *netlinkAudit) SetEnabled(on bool) error {
	if err := k.control.SetEnabled(on, libaudit.WaitForReply); err != nil {
		return fmt.Errorf("switch audit on or off: %w", err)
	}
	return nil
}

func (k *netlinkAudit) SetBacklog(limit, waitTime uint32) error {
	err := k.control.SetBacklogLimit(limit, libaudit.WaitForReply)
	if err == nil {
		err = k.control.SetBacklogWaitTime(int32(waitTime), libaudit.WaitForReply)
	}
	if err != nil {
		return fmt.Errorf("set how many records audit keeps: %w", err)
	}
	return nil
}

func (k *netlinkAudit) Rules() ([][]byte, error) {
	rules, err := k.control.GetRules()
	if err != nil {
		return nil, fmt.Errorf("list audit's rules: %w", err)
	}
	return rules, nil
}

func (k *netlinkAudit) AddRule(rule []byte) error {
	if err := k.control.AddRule(rule); err != nil {
		return fmt.Errorf("add a rule to audit: %w", err)
	}
	return nil
}

func (k *netlinkAudit) DeleteRule(rule []byte) error {
	if err := k.control.DeleteRule(rule); err != nil {
		return fmt.Errorf("delete a rule of audit: %w", err)
	}
	return nil
}

func (k *netlinkAudit) Close() error { return errors.Join(k.records.Close(), k.control.Close()) }
