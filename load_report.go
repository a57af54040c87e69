package kmodquery

import "slices"

// loadReports are, for each source, the events by which it reports an attempt to load a
// module. eBPF observes the two hooks of the specification of TRC-1017. The other sources
// report the same fact under another name.
var loadReports = map[string][]string{
	SourceEBPF:             {EventInitModule, EventSecurityKernelReadFile},
	SourceAudit:            {EventInitModule, EventFinitModule},
	SourceJournal:          {EventModuleLoad},
	SourceKmsg:             {EventModuleLoad},
	SourceSyslog:           {EventModuleLoad},
	SourceProcfs:           {EventModuleLoad, EventModuleUnwitnessed},
	SourceEndpointSecurity: {EventKextload},
	SourceUnifiedLog:       {EventKextload},
	SourceShowloaded:       {EventKextload},
}

// LoadReportColumns are the columns that an event must have for [Event.IsLoadReport].
var LoadReportColumns = []string{"event_name", "source", "type", "reports_load"}

// IsLoadReport reports whether the event is the one that stands for an attempt to load a
// module, however many events the attempt has and whichever sources observed it. Where
// ReportsLoad is nil, because nothing has correlated the event with others or because an
// earlier version stored it, it is an event by which its source reports a load.
func (e *Event) IsLoadReport() bool {
	if e.ReportsLoad != nil {
		return *e.ReportsLoad == 1
	}
	return slices.Contains(loadReports[e.Source], e.EventName) &&
		(e.EventName != EventSecurityKernelReadFile || e.Type == TypeKernelModule)
}

// LoadReportEvents returns the names of all events for which IsLoadReport can be true.
func LoadReportEvents() []string {
	names := []string{EventModuleLoad} // of eBPF, if it did not observe the call's beginning
	for _, events := range loadReports {
		names = append(names, events...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
