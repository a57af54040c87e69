package ulog

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
)

func TestASourceWithoutPermissionOrProgramIsNotSupported(t *testing.T) {
	w := newWorld(t)
	w.write("not_admin", "")
	err := w.start()
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.EqualError(t, err, "not supported: permission to read the unified log: log: Must be admin to run 'stream' command; needs root")
	require.Equal(t, kmodquery.StateUnavailable, w.source.Sensor().State)

	w.source = New(Options{Programs: host.Programs{Log: filepath.Join(w.dir, "log")}})
	err = w.start()
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "there is no "+w.dir)
}

func TestTheErrorSaysHowTheStreamEnded(t *testing.T) {
	w := newWorld(t)
	w.write("stream", loaded(0, "com.example.a"), `{"eventMessage":"Received kext lo`)
	w.write("stream_ends", "log: lost connection to logd")
	err := w.start()
	if err == nil { // the source was ready before the stream ended
		err = <-w.ended
	}
	require.ErrorContains(t, err, "exit status 65: log: lost connection to logd")
	require.NotErrorIs(t, err, kmodquery.ErrNotSupported)
	sensor := w.source.Sensor()
	require.Equal(t, kmodquery.StateFailed, sensor.State)
	require.EqualValues(t, 1, sensor.DecodeErrors, "the incomplete object")

	// Another process kills it.
	w = newWorld(t)
	require.NoError(t, w.start())
	pid, err := strconv.Atoi(strings.Fields(w.read("log.pids"))[0])
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.ErrorContains(t, <-w.ended, "log stream exited unexpectedly: ")
}

// Otherwise each killed process would leave a log stream that runs until it prints the
// next message.
func TestLogEndsWithAKilledProcess(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "stream"), nil, 0o600))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KMODQUERY_STANDINS="+dir, watchesTheLog+"=1")
	require.NoError(t, cmd.Start())
	var pid int
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "log.ready"))
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	}, within, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }, within, 10*time.Millisecond)
}

// If the environment variable watchesTheLog is set, the test binary runs a source until
// it is killed, and writes log.ready when the source is ready.
const watchesTheLog = "KMODQUERY_TEST_WATCHES_THE_LOG"

func watchTheLog() {
	program, err := filepath.Abs("../testdata/standins/log")
	if err != nil {
		panic(err)
	}
	dir := os.Getenv("KMODQUERY_STANDINS")
	source := New(Options{
		Programs: host.Programs{Log: program},
		Position: func(context.Context) (string, error) { return "", nil },
	})
	panic(source.Run(context.Background(), func() {
		pids, err := os.ReadFile(filepath.Join(dir, "log.pids"))
		if err != nil {
			panic(err)
		}
		stream, _, _ := strings.Cut(string(pids), "\n")
		if err := os.WriteFile(filepath.Join(dir, "log.ready"), []byte(stream), 0o600); err != nil {
			panic(err)
		}
	}, func(kmodquery.Delivery) {}))
}

func TestThePredicateBeginsWithThatOfTheDetection(t *testing.T) {
	require.True(t, strings.HasPrefix(predicate(), `eventMessage contains "kextload" OR ((process == "kernel" OR process == "kernelmanagerd" OR `), predicate())
	require.Contains(t, predicate(), ` AND (eventMessage CONTAINS "load notification: " OR `)
}
