//go:build linux

package e2e

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// seed is
//
//	seed COUNT
//
// and appends COUNT events of the last hour. Each is a TRC-1017 finding, every second
// one about the module dummy.
func seed(ts *testscript.TestScript, args []string) (err error) {
	if err := checkArgs(args, 1, "seed COUNT"); err != nil {
		return err
	}
	count, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	store, err := sqlite.Open(context.Background(), ts.Getenv("KMODQUERY_STATE_DIR"), sqlite.Options{
		// No recorder derives loads from what was stored more than a day before it.
		Now: func() time.Time { return time.Now().Add(-48 * time.Hour) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	const batchSize = 20_000
	first := time.Now().Add(-time.Hour)
	batch := make([]kmodquery.Delivery, 0, min(count, batchSize))
	for i := range count {
		at := first.Add(time.Duration(i) * (time.Hour / time.Duration(count)))
		batch = append(batch, kmodquery.Delivery{Event: kmodquery.Event{
			Time: at.Unix(), TimeNanos: at.UnixNano(), Source: kmodquery.SourceEBPF,
			EventName: kmodquery.EventSecurityKernelReadFile, Type: kmodquery.TypeKernelModule,
			Name: []string{"dummy", "nbd"}[i%2], Origin: kmodquery.OriginFile,
		}})
		if len(batch) == cap(batch) || i == count-1 {
			if err := store.Append(context.Background(), batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}

func changeDatabase(ts *testscript.TestScript, args []string) error {
	if err := checkArgs(args, 2, "sqlite FILE SQL"); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	if err != nil {
		return err
	}
	_, err = db.Exec(args[1])
	return errors.Join(err, db.Close())
}

// mute holds connections open until the script ends.
func mute(ts *testscript.TestScript, args []string) error {
	if err := checkArgs(args, 1, "mute SOCKET"); err != nil {
		return err
	}
	listener, err := net.Listen("unix", ts.MkAbs(args[0]))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	ts.Defer(func() { listener.Close() })
	return nil
}

// recorded waits until the recording process responds to readers.
func recorded(ts *testscript.TestScript, args []string) error {
	if err := checkArgs(args, 0, "recorded"); err != nil {
		return err
	}
	socket := filepath.Join(ts.Getenv("KMODQUERY_STATE_DIR"), "recorder.sock")
	for deadline := time.Now().Add(waitForTables); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no process records: %w", err)
		}
	}
}
