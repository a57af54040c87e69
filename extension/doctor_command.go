package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/extension/doctor"
)

// runDoctor is the action of the command doctor.
func runDoctor(ctx context.Context, c *config, f files) error {
	results := doctor.Run(ctx, doctor.Timeout, doctorChecks(c))
	write := doctor.Write
	if c.isDoctorJSON {
		write = doctor.WriteJSON
	}
	if err := write(f.stdout, results); err != nil {
		return err
	}
	if status := doctor.Worst(results).ExitCode(); status != 0 {
		return exitStatus(status)
	}
	return nil
}

// doctorChecks returns the checks of this host.
func doctorChecks(c *config) []doctor.Check {
	host := c.platform.osquery()
	binary := func(context.Context) []doctor.Result {
		path := host.Extension()
		if path == "" {
			// osquery may start it from elsewhere, or not at all.
			executable, err := os.Executable()
			if err != nil {
				return []doctor.Result{{Status: doctor.Unknown, Reason: err.Error()}}
			}
			path = executable
		}
		return host.Root.Binary(path)
	}
	return append(c.platform.checks(c),
		doctor.Check{Name: "store", Run: func(context.Context) []doctor.Result { return doctor.Store(c.stateDir) }},
		doctor.Check{Name: "configuration", Run: func(context.Context) []doctor.Result { return checkConfiguration(c) }},
		doctor.Check{Name: doctor.RecorderName, Run: func(ctx context.Context) []doctor.Result { return checkRecorder(ctx, c) }},
		doctor.Check{Name: "osquery", Run: func(context.Context) []doctor.Result { return host.Presence() }},
		doctor.Check{Name: "osquery_flags", Run: func(context.Context) []doctor.Result { return host.CheckFlags() }},
		doctor.Check{Name: "autoload", Run: func(context.Context) []doctor.Result { return host.CheckAutoload() }},
		doctor.Check{Name: "binary", Run: binary},
		doctor.Check{Name: "registered", Run: func(ctx context.Context) []doctor.Result { return checkRegistered(ctx, c, host) }},
	)
}

// checkConfiguration reports the first mistake, and variables that are no settings.
func checkConfiguration(c *config) []doctor.Result {
	switch {
	case c.mistake != nil:
		return []doctor.Result{{Status: doctor.Critical, Reason: c.mistake.Error(), Remedy: "the other checks use the defaults"}}
	case len(c.unknown) > 0:
		return []doctor.Result{{Status: doctor.Warning, Reason: strings.Join(c.unknown, "; "), Remedy: "correct or unset it"}}
	}
	return []doctor.Result{{Status: doctor.OK, Reason: "no mistake in the environment and in " + cmp.Or(c.configFile, "no file")}}
}

// checkRecorder asks the process that records for its sensors. It does not wait for one that
// starts.
func checkRecorder(ctx context.Context, c *config) []doctor.Result {
	conn, err := dialOnce(ctx, c.stateDir)
	if err != nil {
		return doctor.NoRecorder(c.stateDir, err)
	}
	reason := "a process that cannot be identified records into " + c.stateDir
	if pid, isKnown := doctor.PeerOf(conn); isKnown {
		reason = fmt.Sprintf("process %d records into %s", pid, c.stateDir)
		if command := doctor.CommandOf(pid); command != "" {
			reason += ": " + command
		}
	}
	conn.Close()
	asked := collectors.NewRemote(func(ctx context.Context) (net.Conn, error) { return dialOnce(ctx, c.stateDir) }, nil)
	sensors := asked.Sensors(ctx)
	if len(sensors) == 0 {
		return []doctor.Result{{Name: doctor.RecorderName, Status: doctor.Critical, Reason: reason + ", and does not say how its sensors are", Remedy: "see its log, or restart it"}}
	}
	results := []doctor.Result{{Name: doctor.RecorderName, Status: doctor.OK, Reason: reason}}
	return append(results, doctor.Sensors(sensors, c.platform.viewsSource)...)
}

// checkRegistered asks osquery whether it lists the extension, and one of its tables.
func checkRegistered(ctx context.Context, c *config, host doctor.Osquery) []doctor.Result {
	asked := *c
	asked.socket = cmp.Or(c.socket, host.Socket())
	conn, err := dial(ctx, &asked, 0)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return []doctor.Result{{Status: doctor.Unknown, Reason: err.Error(), Remedy: "run doctor as root"}}
	case err != nil:
		status, remedy := doctor.Note, "if an osquery with another socket runs, name that: --socket PATH"
		if host.Presence()[0].Status == doctor.OK {
			status = doctor.Critical
		}
		return []doctor.Result{{Status: status, Reason: fmt.Sprintf("no osquery answers at %s: %v", asked.socket, err), Remedy: remedy}}
	}
	defer conn.close()
	listed, err := conn.Extensions(ctx)
	if err != nil {
		return []doctor.Result{{Status: doctor.Critical, Reason: "osquery does not answer: " + err.Error(), Remedy: "restart osqueryd"}}
	}
	var names []string
	for _, extension := range listed {
		names = append(names, extension.Name)
	}
	answer, err := conn.Query(ctx, "SELECT count(*) AS sensors FROM kernel_module_sensors")
	if err == nil && answer.GetStatus().GetCode() != 0 {
		err = errors.New(answer.GetStatus().GetMessage())
	}
	return doctor.Registered(asked.socket, names, err)
}

// linuxOsquery and macOSOsquery are osquery as its packages install it.
func linuxOsquery() doctor.Osquery {
	return doctor.Osquery{
		Root: "/", Folder: "/etc/osquery", Processes: doctor.Processes,
		Programs: []string{"/opt/osquery/bin/osqueryd", "/usr/bin/osqueryd", "/usr/local/bin/osqueryd", "/opt/orbit/bin/orbit/orbit", "/usr/local/kolide-k2/bin/launcher"},
	}
}

func macOSOsquery() doctor.Osquery {
	const app = "/opt/osquery/lib/osquery.app/Contents/MacOS"
	return doctor.Osquery{
		Root: "/", Folder: "/var/osquery", Processes: doctor.Processes,
		Programs: []string{filepath.Join(app, "osqueryd"), "/usr/local/bin/osqueryd", "/opt/orbit/bin/orbit/orbit", "/usr/local/kolide-k2/bin/launcher"},
	}
}
