package collectors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/kmodquery/kmodquery"
)

const (
	// shareTimeout bounds one exchange between a reader and the recorder.
	shareTimeout = 30 * time.Second
	// syncTimeout is the part of it that a Sync may take, so that the reader gets
	// an answer even if it takes longer.
	syncTimeout = 20 * time.Second
	// requestTimeout is how long the recorder waits for a request. A reader of an
	// earlier version sends none and gets everything.
	requestTimeout = time.Second
	// maxRequest bounds a request in bytes, maxReport a report.
	maxRequest = 64 << 10
	maxReport  = 64 << 20
	// maxShared bounds the readers that are answered at once. More wait.
	maxShared = 8
)

// Messages are CBOR with strings as byte strings, because names need not be UTF-8. These
// options are valid, so there is no error.
var (
	messageEncoding, _ = cbor.EncOptions{String: cbor.StringToByteString}.EncMode()
	messageDecoding, _ = cbor.DecOptions{ByteStringToString: cbor.ByteStringToStringAllowed}.DecMode()
)

// A request says what a reader wants of the recorder. A recorder of an earlier version
// does not read it and answers with everything.
type request struct {
	Sync    bool          // every event that happened before is to be stored first
	Within  time.Duration // the time for that; 0 stands for syncTimeout
	Sensors bool
	Loaded  bool

	Cursor     *cursorRequest
	Registered string // the osquery that has registered the reader, by its socket
}

// A cursorRequest asks for a cursor or, if Moved is set, moves it.
type cursorRequest struct {
	Name  string
	Query kmodquery.CursorQuery
	Moved *cursorMove
}

type cursorMove struct {
	Cursor kmodquery.Cursor
	To     int64
	Rows   int
}

// A report is the recorder's answer to a request.
type report struct {
	Sensors []kmodquery.Sensor
	Loaded  []kmodquery.Module
	Error   string // of the Sync
	// NotStored is set if the error matches kmodquery.ErrNotStored.
	NotStored bool

	Cursor *kmodquery.Cursor // nil from a recorder of an earlier version
	Moved  bool
}

// Share answers the [Remote] of other processes until listener is closed. The listener
// decides who may connect.
func (r *Recorder) Share(listener net.Listener) {
	slots := make(chan struct{}, maxShared)
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			r.report(fmt.Errorf("accept a reader: %w", err))
			time.Sleep(firstDelay)
			continue
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer conn.Close()
			if err := r.answer(conn); err != nil {
				r.report(fmt.Errorf("answer a reader: %w", err))
			}
		}()
	}
}

// answer answers one request. A reader that hangs up is no error.
func (r *Recorder) answer(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(shareTimeout))
	wanted, err := readRequest(conn)
	if err != nil {
		return err
	}
	var answer report
	if wanted.Sync {
		ctx, cancel := context.WithTimeout(context.Background(), min(cmp.Or(wanted.Within, syncTimeout), syncTimeout))
		defer cancel()
		if err := r.Sync(ctx); err != nil {
			answer.Error, answer.NotStored = err.Error(), errors.Is(err, kmodquery.ErrNotStored)
		}
	}
	if wanted.Sensors {
		answer.Sensors = r.Sensors(context.Background())
	}
	if wanted.Loaded {
		answer.Loaded = r.loaded()
	}
	if cursors := r.options.Cursors; cursors != nil && (answer.Error == "" || answer.NotStored) {
		answerCursor(cursors, wanted, &answer)
	}
	_ = messageEncoding.NewEncoder(conn).Encode(answer)
	return nil
}

// answerCursor answers what a request wants of the cursors.
func answerCursor(cursors Cursors, wanted request, answer *report) {
	ctx, cancel := context.WithTimeout(context.Background(), syncTimeout)
	defer cancel()
	if wanted.Registered != "" {
		cursors.Registered(wanted.Registered)
	}
	if wanted.Cursor == nil {
		return
	}
	var cursor kmodquery.Cursor
	var err error
	if move := wanted.Cursor.Moved; move != nil {
		answer.Moved, err = cursors.Advance(ctx, move.Cursor, move.To, move.Rows)
	} else {
		cursor, err = cursors.Cursor(ctx, wanted.Cursor.Name, wanted.Cursor.Query)
	}
	answer.Cursor = &cursor
	if err != nil {
		answer.Error, answer.NotStored = err.Error(), false
	}
}

// readRequest reads the request of a reader.
func readRequest(conn net.Conn) (request, error) {
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	var wanted request
	err := messageDecoding.NewDecoder(io.LimitReader(conn, maxRequest)).Decode(&wanted)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return request{Sync: true, Sensors: true, Loaded: true}, nil
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
		return request{}, nil // it has hung up
	case err != nil:
		return request{}, fmt.Errorf("read its request: %w", err)
	}
	return wanted, nil
}

// A Remote is the recorder in another process that records into the same store. Its
// methods may be called concurrently. Each makes one exchange with the recorder.
type Remote struct {
	dial    func(ctx context.Context) (net.Conn, error)
	sources []string
}

// NewRemote returns the recorder that dial connects to. If it does not answer,
// [Remote.Sensors] has a failed sensor for each of the sources.
func NewRemote(dial func(ctx context.Context) (net.Conn, error), sources []string) *Remote {
	return &Remote{dial: dial, sources: sources}
}

// Sync returns when every event that happened before the call is in the store, as
// [Recorder.Sync] does. If no recorder runs there is nothing to wait for. Its error
// matches [kmodquery.ErrNotStored] too if the recorder does not answer in time.
func (r *Remote) Sync(ctx context.Context) error {
	_, err := r.ask(ctx, request{Sync: true})
	return err
}

// Loaded does what [Recorder.Loaded] does. If no recorder runs it returns no modules.
func (r *Remote) Loaded(ctx context.Context) ([]kmodquery.Module, error) {
	answer, err := r.ask(ctx, request{Sync: true, Loaded: true})
	return loadedAfterSync(answer.Loaded, err)
}

// Sensors returns the recorder's sensors, or failed ones if it does not answer.
func (r *Remote) Sensors(ctx context.Context) []kmodquery.Sensor {
	answer, err := r.exchange(ctx, request{Sensors: true})
	if err == nil {
		return answer.Sensors
	}
	sensors := make([]kmodquery.Sensor, len(r.sources))
	for i, source := range r.sources {
		sensors[i] = kmodquery.Sensor{
			Source: source,
			State:  kmodquery.StateFailed,
			Reason: fmt.Sprintf("%v; end what holds the store's lock, or restart this process to record", err),
			Since:  time.Now().Unix(),
		}
	}
	return sensors
}

// Cursor does what [Remote.Sync] does, for two thirds of the time that ctx has left, and
// returns the recorder's cursor of a name, as the event store of the recorder does. A cursor
// is returned also if events are not stored. The error matches [ErrNoRecorder] if no
// recorder answers.
func (r *Remote) Cursor(ctx context.Context, name string, q kmodquery.CursorQuery) (kmodquery.Cursor, error) {
	wanted := request{Sync: true, Cursor: &cursorRequest{Name: name, Query: q}}
	if deadline, ok := ctx.Deadline(); ok {
		wanted.Within = max(time.Until(deadline)/3*2, 1)
	}
	answer, err := r.askCursor(ctx, wanted)
	if err != nil {
		return kmodquery.Cursor{}, err
	}
	return *answer.Cursor, nil
}

// Advance moves the recorder's cursor, as the event store of the recorder does. Its error
// matches [ErrNoRecorder] if no recorder answers.
func (r *Remote) Advance(ctx context.Context, c kmodquery.Cursor, to int64, rows int) (bool, error) {
	answer, err := r.askCursor(ctx, request{Cursor: &cursorRequest{Moved: &cursorMove{Cursor: c, To: to, Rows: rows}}})
	return answer.Moved, err
}

// Registered tells the recorder that an osquery has registered this process anew.
func (r *Remote) Registered(ctx context.Context, asker string) error {
	_, err := r.exchange(ctx, request{Registered: asker})
	return err
}

// ErrNoRecorder matches errors that say that the recorder does not answer.
var ErrNoRecorder = errors.New("no recorder answers")

func (r *Remote) askCursor(ctx context.Context, wanted request) (report, error) {
	answer, err := r.exchange(ctx, wanted)
	switch {
	case err != nil:
		return report{}, fmt.Errorf("%w: %w", ErrNoRecorder, err)
	case answer.Cursor == nil && answer.Error != "" && !answer.NotStored:
		return report{}, fmt.Errorf("wait for pending events: %s", answer.Error)
	case answer.Cursor == nil:
		return report{}, fmt.Errorf("%w: it is of an earlier version", ErrNoRecorder)
	case answer.Error != "" && !answer.NotStored:
		return report{}, errors.New(answer.Error)
	}
	return answer, nil
}

// ask makes a request that includes a Sync, and returns the error of the Sync.
func (r *Remote) ask(ctx context.Context, wanted request) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	answer, err := r.exchange(ctx, wanted)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return report{}, fmt.Errorf("%w: %w", kmodquery.ErrNotStored, err)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return report{}, nil // no recorder runs, as the sensors say
	case err != nil:
		return report{}, err
	case answer.NotStored:
		return answer, notStoredError(answer.Error)
	case answer.Error != "":
		return answer, errors.New(answer.Error)
	}
	return answer, nil
}

// A notStoredError is the text of the recorder's error that matches kmodquery.ErrNotStored.
type notStoredError string

func (e notStoredError) Error() string { return string(e) }
func (notStoredError) Unwrap() error   { return kmodquery.ErrNotStored }

// exchange sends a request and returns the recorder's answer.
func (r *Remote) exchange(ctx context.Context, wanted request) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	conn, err := r.dial(ctx)
	if err != nil {
		return report{}, fmt.Errorf("reach the process that records: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	// It may fail though there is an answer: a recorder of an earlier version does not
	// wait for a request.
	_ = messageEncoding.NewEncoder(conn).Encode(wanted)
	var answer report
	if err := messageDecoding.NewDecoder(io.LimitReader(conn, maxReport)).Decode(&answer); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = errors.New("it has not answered in time") // its connection was closed
		}
		return report{}, fmt.Errorf("hear from the process that records: %w", err)
	}
	return answer, nil
}
