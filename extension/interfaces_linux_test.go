package main

import (
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/linux/audit"
	"github.com/kmodquery/kmodquery/linux/ebpf"
	"github.com/kmodquery/kmodquery/linux/klog"
)

// The interfaces that collectors finds by type assertion.
var (
	_ crossview.CompleteSource     = (*ebpf.Source)(nil)
	_ collectors.AtLeastOnceSource = (*ebpf.Source)(nil)
	_ collectors.Backfiller        = (*audit.Source)(nil)
	_ collectors.Backfiller        = (*klog.Journal)(nil)
	_ collectors.Backfiller        = (*klog.Kmsg)(nil)
	_ collectors.Backfiller        = (*klog.Syslog)(nil)
)
