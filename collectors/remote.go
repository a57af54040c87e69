package collectors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/kmodquery/kmodquery"
)

const (
	// shareTimeout bounds one exchange between a reader and the recorder.
	shareTimeout = 30 * time.Second
	// syncTimeout is the part of it that the events under way may take, so
	// that the reader still hears when they take longer.
	syncTimeout = 20 * time.Second
	// maxShared bounds the readers that are answered at once; more wait.
	maxShared = 8
	// maxReport bounds what a reader takes for an answer.
	maxReport = 64 << 20
)

// A report goes as CBOR, and its texts as strings of bytes: JSON would spoil the
// names that are no UTF-8.
var (
	reportEncoding = must(cbor.EncOptions{String: cbor.StringToByteString}.EncMode())
	reportDecoding = must(cbor.DecOptions{ByteStringToString: cbor.ByteStringToStringAllowed}.DecMode())
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// A report is the recorder's whole answer to a reader that connected: every
// event that happened before is stored, unless Error says otherwise.
type report struct {
	Sensors []kmodquery.Sensor
	Loaded  []kmodquery.Module
	Error   string
	// NotStored says that Error is kmodquery.ErrNotStored.
	NotStored bool
}

// Share answers the [Remote] of other processes until listener is closed, so
// that what they read from the store is complete too. Who may connect is the
// listener's affair.
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
			r.answer(conn)
		}()
	}
}

func (r *Recorder) answer(conn net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), syncTimeout)
	defer cancel()
	_ = conn.SetDeadline(time.Now().Add(shareTimeout))
	var answer report
	if err := r.Sync(ctx); err != nil {
		answer.Error, answer.NotStored = err.Error(), errors.Is(err, kmodquery.ErrNotStored)
	}
	answer.Sensors, answer.Loaded = r.Sensors(), r.Loaded()
	_ = reportEncoding.NewEncoder(conn).Encode(answer) // a reader that left needs no answer
}

// A Remote is the recorder as another process sees it, one that only reads the
// recorder's store. Its methods may be called concurrently.
type Remote struct {
	dial    func(ctx context.Context) (net.Conn, error)
	sources []string
}

// NewRemote returns the recorder that dial connects to. The names of its
// sources are for the time when it does not answer.
func NewRemote(dial func(ctx context.Context) (net.Conn, error), sources []string) *Remote {
	return &Remote{dial: dial, sources: sources}
}

// Sync returns when every event that happened before the call is in the store.
// When no recorder runs there is nothing to wait for; the sensors tell of it.
func (r *Remote) Sync(ctx context.Context) error {
	answer, err := r.ask(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return nil
	case err != nil:
		return err
	case answer.NotStored:
		return remoteError{answer.Error, kmodquery.ErrNotStored}
	case answer.Error != "":
		return errors.New(answer.Error)
	}
	return nil
}

// A remoteError is the text of an error in another process, and what it matches.
type remoteError struct {
	text  string
	match error
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.match }

// Sensors returns the recorder's own, or failed ones when it does not answer.
func (r *Remote) Sensors() []kmodquery.Sensor {
	answer, err := r.ask(context.Background())
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

// Loaded returns the modules that are loaded by what the stored events say, as
// far as the recorder answers.
func (r *Remote) Loaded() []kmodquery.Module {
	answer, _ := r.ask(context.Background()) // Sensors says what is wrong
	return answer.Loaded
}

func (r *Remote) ask(ctx context.Context) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	conn, err := r.dial(ctx)
	if err != nil {
		return report{}, fmt.Errorf("reach the process that records: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var answer report
	if err := reportDecoding.NewDecoder(io.LimitReader(conn, maxReport)).Decode(&answer); err != nil {
		return report{}, fmt.Errorf("hear from the process that records: %w", err)
	}
	return answer, nil
}
