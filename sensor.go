package kmodquery

// States of a sensor.
const (
	StateActive      = "active"      // watching
	StateStandby     = "standby"     // able to watch, and not needed or still starting
	StateUnavailable = "unavailable" // this host cannot run it; Reason says what is missing
	StateFailed      = "failed"      // it should work and does not; Reason says why
)

// Roles of a process that has the event store open.
const (
	RoleRecorder = "recorder" // runs the sources and writes the store
	RoleReader   = "reader"   // reads only, because another process records
)

// A Sensor is the health of one source at one moment. The counters start with the
// process, or with the pinned programs if there are any.
type Sensor struct {
	Source        string
	State         string
	Reason        string // why it is not active, or last was not, and what to do about it; one line
	Since         int64  // Unix time in seconds of the last change of State
	Hooks         string // JSON array of the attached hooks, each as "hook (program type)"
	Received      int64  // records taken from the kernel
	Lost          int64  // records lost before the source could read them, and missed returns of system calls, without those of Shed
	Filtered      int64  // records that the source's hooks sent, that had room, and that did not arrive
	DecodeErrors  int64  // records that could not be decoded; they become no events
	EnrichErrors  int64  // events with a column in Missing
	Denied        int64  // denied attempts that are counted in another attempt's event
	Joined        int64  // events that received the load_id of a better source
	LastEventTime int64  // Unix time in seconds; 0 if there was no event
	GapStart      int64  // Unix time in seconds; GapStart to GapEnd is the last time in this boot in which the source did not watch; 0 if there is none
	GapEnd        int64
	Shed          int64  // records that any user can cause that were not sent, to keep room for loads, and events dropped because the store accepted none and the memory for them was full
	StoreReason   string // why the store accepts no events of any source, and which it lost, in one line
}

// StoreStatus is the state of the event store.
type StoreStatus struct {
	Path       string
	Role       string
	Rows       int64
	Bytes      int64 // of the database and its write-ahead log
	OldestTime int64 // Unix time in seconds of the oldest event; 0 if there is none
	FirstEID   int64 // the lowest EID of an event; 0 if there is none
	Errors     int64 // batches that could not be written
	Damaged    int64 // rows whose checksum did not match when they were read; they are not returned
	Skipped    int64 // events that expired before a cursor gave them
	Totals     StoreTotals
	Trouble    string // present and past defects of the store that this process sees, and what to do about them, in one line
}

// StoreTotals are what the recorder counted when it stored and deleted events; nil and empty
// if they are unknown. A sum is that of the rows' HMACs modulo 2^256, in hex.
type StoreTotals struct {
	Rows, UnprivilegedRows *int64 // by [Event.IsUnprivileged]
	Sum, UnprivilegedSum   string // of the rows after the EID SumsAfter
	SumsAfter, LastEID     *int64
}
