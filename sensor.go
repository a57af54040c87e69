package kmodquery

// States of a sensor.
const (
	StateActive      = "active"      // watching
	StateStandby     = "standby"     // able to watch, not needed now
	StateUnavailable = "unavailable" // this host cannot; Reason says what is missing
	StateFailed      = "failed"      // it should work and does not; Reason says why
)

// Roles of a process that has the event store open.
const (
	RoleRecorder = "recorder" // runs the sources and writes the store
	RoleReader   = "reader"   // another process records; this one only reads
)

// A Sensor is what one source says about itself at one moment. Counters run
// from the start of the process, or of the pinned program where there is one.
type Sensor struct {
	Source        string
	State         string
	Reason        string // why it is not active and what to do about it, or why it last was not, in one line
	Since         int64  // Unix time in seconds of the last change of State
	Hooks         string // JSON array of what is attached, each as "hook (program type)"
	Received      int64  // records taken from the kernel
	Lost          int64  // records that the kernel side could not hand over
	DecodeErrors  int64  // records that could not be read; they are not events
	EnrichErrors  int64  // events written with something in Missing
	Denied        int64  // attempts folded into other rows
	Joined        int64  // events given the load_id under which a better source saw the attempt
	LastEventTime int64  // Unix time in seconds; 0 where there was none
	GapStart      int64  // Unix time in seconds; with GapEnd the last time of this boot in which the source did not watch, or 0
	GapEnd        int64
}

// StoreStatus is what the event store says about itself.
type StoreStatus struct {
	Path       string
	Role       string
	Rows       int64
	Bytes      int64 // of the database and its write-ahead log
	OldestTime int64 // Unix time in seconds of the oldest event; 0 where there is none
	Errors     int64 // batches that could not be written
}
