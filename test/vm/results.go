//go:build linux

package vm

import (
	"bytes"
	"io"
	"strconv"
	"time"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// A resultsReader parses init's output on the results port: the ready line, the
// program's output, the exit line. It passes the program's output on line by line.
type resultsReader struct {
	output  io.Writer // or nil
	onReady func()    // called at the ready line; or nil
	ready   time.Time // the time of the ready line
	pending []byte    // an unfinished line
	blank   bool      // an empty line is held back, because it may be the one before the exit line
	code    int
	ended   bool
}

func newResultsReader(output io.Writer) *resultsReader {
	return &resultsReader{output: output}
}

func (r *resultsReader) Write(p []byte) (int, error) {
	r.pending = append(r.pending, p...)
	for {
		end := bytes.IndexByte(r.pending, '\n')
		if end < 0 {
			return len(p), nil
		}
		if err := r.line(r.pending[:end+1]); err != nil {
			return 0, err
		}
		r.pending = r.pending[end+1:]
	}
}

func (r *resultsReader) line(line []byte) error {
	if exit, ok := bytes.CutPrefix(line, []byte(guest.ExitPrefix)); ok {
		code, err := strconv.Atoi(string(bytes.TrimSpace(exit)))
		r.code, r.ended, r.blank = code, err == nil, false
		return nil
	}
	if string(line) == guest.NextLine {
		r.blank = false
		return r.pass(line)
	}
	if r.ready.IsZero() && string(line) == guest.ReadyLine {
		r.ready = time.Now()
		if r.onReady != nil {
			r.onReady()
		}
		return nil
	}
	if r.blank {
		r.blank = false
		if err := r.pass([]byte("\n")); err != nil {
			return err
		}
	}
	if len(line) == 1 {
		r.blank = true
		return nil
	}
	return r.pass(line)
}

func (r *resultsReader) pass(line []byte) error {
	if r.output == nil {
		return nil
	}
	_, err := r.output.Write(line)
	return err
}

// close passes on the unfinished output of a VM that stopped early. It returns the
// program's exit code and whether there was one.
func (r *resultsReader) close() (code int, ended bool, err error) {
	if !r.ended && len(r.pending) > 0 {
		err = r.pass(r.pending)
	}
	return r.code, r.ended, err
}
