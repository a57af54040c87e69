package osqueryhost

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Options are the flags of osqueryd that matter to an extension. The zero value of a
// field means osquery's default, if osquery has one.
type Options struct {
	// Dir holds the results logs and the state of the differentials. A host started on
	// the Dir of an earlier host continues both. Dir must exist.
	Dir string
	// Socket is --extensions_socket; by default osquery.em in Dir. It may have
	// at most 97 characters, because an extension appends its own number.
	Socket string
	// Timeout is --extensions_timeout, 3 s: how long a socket that was just
	// announced may take to appear.
	Timeout time.Duration
	// Interval is --extensions_interval, 3 s: the time between two rounds of pings and
	// between two polls of the extension processes. If it is negative, only
	// PingExtensions and PollChildren do rounds.
	Interval time.Duration
	// StopTimeout is how long an extension may take to end after SIGTERM
	// before it is killed; 11 s.
	StopTimeout time.Duration
	// Verbose passes --verbose on to extensions.
	Verbose bool
	// Output receives what extension processes print; os.Stderr by default.
	Output io.Writer

	// HostIdentifier is in each line of the logs; the host's name by
	// default.
	HostIdentifier string
	// Platform and Version decide which packs run here; runtime.GOOS and
	// 5.23.0 by default.
	Platform string
	Version  string
	// PackRefresh is --pack_refresh_interval, an hour: how long the result of a
	// discovery query is kept, including a negative one.
	PackRefresh time.Duration
	// Epoch is --schedule_epoch. When it changes, every query starts afresh.
	Epoch uint64
	// Flags are further flags by osquery's names, with or without effect here (doc.go). Their
	// defaults are osquery's, except that disable_watchdog is true: "false" switches the
	// watchdog on.
	Flags map[string]string
}

// maxSocketPath leaves room for the dot and the five digits of an extension's
// number in the 103 bytes that sun_path holds on every platform.
const maxSocketPath = 97

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, fmt.Errorf("start osquery host: Options.Dir is empty")
	}
	if o.Socket == "" {
		o.Socket = filepath.Join(o.Dir, "osquery.em")
	}
	if len(o.Socket) > maxSocketPath {
		return o, fmt.Errorf("start osquery host: socket path %s has %d characters, at most %d are possible",
			o.Socket, len(o.Socket), maxSocketPath)
	}
	if o.HostIdentifier == "" {
		name, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("start osquery host: read host name: %w", err)
		}
		o.HostIdentifier = name
	}
	setDefault(&o.Timeout, 3*time.Second)
	setDefault(&o.Interval, 3*time.Second)
	setDefault(&o.StopTimeout, 11*time.Second)
	setDefault(&o.PackRefresh, time.Hour)
	setDefault(&o.Platform, runtime.GOOS)
	setDefault(&o.Version, "5.23.0")
	if o.Output == nil {
		o.Output = os.Stderr
	}
	return o, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
