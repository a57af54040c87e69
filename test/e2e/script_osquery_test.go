//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

type osqueryKey struct{}

// An osquery is the osquery of a script. Its folder survives a restart.
type osquery struct {
	options   osqueryhost.Options
	extension string
	stateDir  string

	host  *osqueryhost.Host // nil while stopped
	child *osqueryhost.Child
	log   *os.File
	now   time.Time // of its schedule; a restart does not set it back
}

func newOsquery(workDir, extension string) *osquery {
	dir := filepath.Join(workDir, "osquery")
	return &osquery{
		options: osqueryhost.Options{
			Dir:      dir,
			Socket:   filepath.Join(dir, "osquery.em"),
			Interval: time.Second,
			// An emulator may take longer than osqueryd waits to release hooks.
			StopTimeout: waitForTables,
			Platform:    "linux",
		},
		extension: extension,
		stateDir:  filepath.Join(workDir, "state"),
		now:       time.Now(),
	}
}

// osqueryCommand is
//
//	osquery start           serve extensions at $SOCKET
//	osquery launch [FLAG…]  start the extension, and keep it running; its stderr goes to osquery/extension.log
//	osquery await           wait until the extension's tables answer and its sources have started
//	osquery respawn         kill the extension and wait until the one started in its place answers
//	osquery query SQL       print the rows, each as a JSON object in a line
//	osquery extensions      print the names of the extensions
//	osquery vanish          end as if killed
//	osquery stop            end as on SIGTERM
//
// Its extensions have an interval of a second and osquery's default timeout.
func osqueryCommand(ts *testscript.TestScript, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: osquery start|launch|await|respawn|query|extensions|vanish|stop")
	}
	name, args := args[0], args[1:]
	if name == "start" {
		return ts.Value(osqueryKey{}).(*osquery).start()
	}
	o, err := running(ts)
	if err != nil {
		return err
	}
	switch name {
	case "launch":
		return o.launch(args)
	case "await":
		return o.await()
	case "respawn":
		return o.respawn()
	case "query":
		if err := checkArgs(args, 1, "osquery query SQL"); err != nil {
			return err
		}
		return o.query(ts, args[0])
	case "extensions":
		for _, extension := range o.host.Extensions() {
			fmt.Fprintln(ts.Stdout(), extension.Name)
		}
		return nil
	case "vanish":
		return o.host.Vanish()
	case "stop":
		return o.close()
	}
	return fmt.Errorf("osquery %s: unknown", name)
}

// running returns the script's osquery if it was started.
func running(ts *testscript.TestScript) (*osquery, error) {
	o := ts.Value(osqueryKey{}).(*osquery)
	if o.host == nil {
		return nil, errors.New("osquery is not running")
	}
	return o, nil
}

func (o *osquery) start() (err error) {
	if o.host != nil {
		return errors.New("osquery is running")
	}
	if err := os.MkdirAll(o.options.Dir, 0o700); err != nil {
		return err
	}
	if o.log, err = os.OpenFile(filepath.Join(o.options.Dir, "extension.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	o.options.Output = o.log
	o.host, err = osqueryhost.Start(context.Background(), o.options)
	if err != nil {
		return err
	}
	return o.host.Tick(context.Background(), o.now)
}

func (o *osquery) launch(flags []string) (err error) {
	flags = append([]string{"--state-dir", o.stateDir}, flags...)
	if o.child, err = o.host.StartExtension(o.extension, flags...); err != nil {
		return err
	}
	return o.await()
}

func (o *osquery) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), waitForTables)
	defer cancel()
	return awaitStart(ctx, o.host)
}

// respawn kills the extension. osquery notices that and starts it again.
func (o *osquery) respawn() error {
	if o.child == nil {
		return errors.New("osquery has not launched the extension")
	}
	starts := o.child.Starts()
	if err := o.child.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	for deadline := time.Now().Add(waitForTables); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		// The tables of the dead process stay until the next round of pings.
		if o.child.Starts() == starts {
			continue
		}
		if err := o.await(); err != nil {
			return err
		}
		if o.child.Starts() > starts+1 {
			return errors.New("the extension ended before osquery had removed its predecessor")
		}
		return nil
	}
	return errors.New("osquery did not start the extension again")
}

func (o *osquery) query(ts *testscript.TestScript, sql string) error {
	rows, err := o.host.Query(context.Background(), sql)
	if err != nil && o.child != nil && strings.Contains(err.Error(), "no such table: kernel_module") {
		if err := o.await(); err != nil { // a busy emulator; see advance
			return err
		}
		rows, err = o.host.Query(context.Background(), sql)
	}
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(ts.Stdout())
	encoder.SetEscapeHTML(false)
	for _, row := range rows {
		if err := encoder.Encode(row); err != nil {
			return err
		}
	}
	return nil
}

func (o *osquery) close() error {
	if o.host == nil {
		return nil
	}
	host := o.host
	o.host, o.child = nil, nil
	return errors.Join(host.Close(), o.log.Close())
}

func schedule(ts *testscript.TestScript, args []string) error {
	if err := checkArgs(args, 1, "schedule PACK"); err != nil {
		return err
	}
	o, err := running(ts)
	if err != nil {
		return err
	}
	pack, err := osqueryhost.ReadPack(ts.MkAbs(args[0]))
	if err != nil {
		return err
	}
	o.host.Schedule(context.Background(), pack)
	return nil
}

func advance(ts *testscript.TestScript, args []string) error {
	if err := checkArgs(args, 1, "advance DURATION"); err != nil {
		return err
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	o, err := running(ts)
	if err != nil {
		return err
	}
	for range 5 {
		if err := o.await(); err != nil {
			return err
		}
		tables := slices.Sorted(maps.Keys(o.host.Extensions()))
		o.now = o.now.Add(d)
		if err := o.host.Advance(context.Background(), d); err != nil {
			return err
		}
		// If a busy emulator prevented the extension from answering a ping in time, osquery
		// has dropped its tables, and queries failed until it had registered again.
		if slices.Equal(tables, slices.Sorted(maps.Keys(o.host.Extensions()))) {
			return nil
		}
	}
	return errors.New("osquery drops the tables again and again")
}

func shipped(ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: shipped QUERY COLUMN…")
	}
	o, err := running(ts)
	if err != nil {
		return err
	}
	query, columns := args[0], args[1:]
	results, err := o.host.ResultsLog()
	if err != nil {
		return err
	}
	for _, result := range results {
		if !strings.HasSuffix(result.Name, "_"+query) {
			continue
		}
		words := []string{result.Action}
		for _, column := range columns {
			words = append(words, result.Columns[column])
		}
		fmt.Fprintln(ts.Stdout(), strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " "))
	}
	return nil
}
