//go:build linux

package audit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/audit/record"
	"github.com/kmodquery/kmodquery/linux/logfile"
	"github.com/kmodquery/kmodquery/test/leak"
)

// A logWriter writes a log as the audit daemon does.
type logWriter struct {
	t      testing.TB
	path   string
	file   *os.File
	serial int // of the last module call
	other  int // number of other events
}

func newLogWriter(t testing.TB) *logWriter {
	t.Helper()
	leak.Check(t)
	w := &logWriter{t: t, path: filepath.Join(t.TempDir(), "audit.log")}
	w.create()
	return w
}

func (w *logWriter) create() {
	w.t.Helper()
	file, err := os.OpenFile(w.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(w.t, err)
	w.file = file
	w.t.Cleanup(func() { file.Close() })
}

func (w *logWriter) write(text string) {
	w.t.Helper()
	_, err := w.file.WriteString(text)
	require.NoError(w.t, err)
}

// record returns the text of the next event, an insmod of the module mSERIAL, now.
func (w *logWriter) record(text string) string {
	w.serial++
	now := time.Now()
	id := fmt.Sprintf("%d.%03d:%d", now.Unix(), now.Nanosecond()/1e6, w.serial)
	text = strings.ReplaceAll(text, "$ID", id)
	return strings.ReplaceAll(text, `"dummy"`, fmt.Sprintf(`"m%d"`, w.serial))
}

// event writes a whole event.
func (w *logWriter) event(text string) { w.write(w.record(text)) }

// others writes records that are no module calls. Like all records they have ids of
// their own.
func (w *logWriter) others() {
	w.other++
	w.write(fmt.Sprintf("type=USER_CMD msg=audit(1795529435.180:7%d): pid=7 uid=0 auid=1000 ses=1 subj=unconfined msg='cwd=\"/\" cmd=6C73 terminal=pts/0 res=success'\x1dUID=\"root\"\n", w.other))
	w.write(fmt.Sprintf("type=SYSCALL msg=audit(1795529435.180:8%d): arch=c000003e syscall=59 success=yes exit=0 a0=0 ppid=1 pid=2 comm=\"ls\"\n", w.other))
}

// rotations is how many rotated files are kept.
const rotations = 40

// rotate rotates as the daemon does.
func (w *logWriter) rotate() {
	w.t.Helper()
	w.file.Close()
	for i := rotations; i > 0; i-- {
		from := w.path
		if i > 1 {
			from = fmt.Sprintf("%s.%d", w.path, i-1)
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", w.path, i)); err != nil {
			require.ErrorIs(w.t, err, os.ErrNotExist)
		}
	}
	w.create()
}

// copyTruncate rotates as logrotate does with this option.
func (w *logWriter) copyTruncate() {
	w.t.Helper()
	for i := rotations; i > 1; i-- {
		_ = os.Rename(fmt.Sprintf("%s.%d", w.path, i-1), fmt.Sprintf("%s.%d", w.path, i))
	}
	content, err := os.ReadFile(w.path)
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(w.path+".1", content, 0o600))
	require.NoError(w.t, os.Truncate(w.path, 0))
}

// A memoryStore keeps names and the last position, as the event store does.
type memoryStore struct {
	mu       sync.Mutex
	names    []string
	denied   int64
	position string
	limit    int // of events that it takes before the process dies; 0 for none
	events   []kmodquery.Event
}

func (m *memoryStore) emit(d kmodquery.Delivery) {
	e := d.Event
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.limit < 0 {
		return // the process is dead already
	}
	if m.limit > 0 {
		if m.limit--; m.limit == 0 {
			m.limit = -1
		}
	}
	m.events = append(m.events, e)
	if e.IsUnprivileged() {
		m.denied += *e.Count
	} else {
		m.names = append(m.names, e.Name)
	}
	if d.Position != "" {
		m.position = d.Position
	}
}

func (m *memoryStore) get() ([]string, int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.names), m.denied
}

// followLog runs the source on a log, without the right to read from the kernel.
func followLog(t testing.TB, path string, store *memoryStore) (source *Source, stop func()) {
	t.Helper()
	source = New(func(context.Context) (string, error) { return store.position, nil })
	source.log = path
	source.open = func() (kernelConn, error) { return nil, forbidden(unix.EPERM) }
	return source, startSource(t, source, store)
}

// startSource runs a source, which is ready when it returns.
func startSource(t testing.TB, source *Source, store *memoryStore) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- source.Run(ctx, func() { close(ready) }, store.emit) }()
	select {
	case <-ready:
	case err := <-ended:
		require.NoError(t, err)
	}
	return func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

// upTo returns the names of the first n events.
func upTo(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("m%d", i+1)
	}
	return names
}

func TestLogIsFollowed(t *testing.T) {
	w, store := newLogWriter(t), &memoryStore{}
	w.others()
	w.event(insmodLines)
	w.others()
	source, stop := followLog(t, w.path, store)
	names, _ := store.get()
	require.Equal(t, upTo(1), names, "existing records are emitted before ready is called")
	sensor := source.Sensor()
	require.Equal(t, kmodquery.StateActive, sensor.State)
	require.Equal(t, `["`+w.path+`"]`, sensor.Hooks)
	require.Contains(t, sensor.Reason, "CAP_AUDIT_READ")

	w.event("node=elsewhere " + strings.ReplaceAll(strings.TrimSuffix(insmodLines, "\n"), "\n", "\nnode=elsewhere ") + "\n")
	require.NoError(t, source.Sync(t.Context()))
	require.Contains(t, source.Sensor().Reason, "the node elsewhere")
	host, err := os.Hostname()
	require.NoError(t, err)
	w.event("node=" + host + " " + strings.ReplaceAll(strings.TrimSuffix(insmodLines, "\n"), "\n", "\nnode="+host+" ") + "\n")

	// A line comes in pieces.
	text := w.record(insmodLines)
	w.write(text[:len(text)/3])
	require.NoError(t, source.Sync(t.Context()))
	w.write(text[len(text)/3:])
	w.write(strings.Repeat("x", 3*record.MaxLine) + "\n")
	w.event(insmodLines)
	require.NoError(t, source.Sync(t.Context()))
	names, _ = store.get()
	require.Equal(t, []string{"m1", "m3", "m4", "m5"}, names)
	require.EqualValues(t, 1, source.Sensor().DecodeErrors)

	// No Sync is necessary.
	w.event(insmodLines)
	require.Eventually(t, func() bool { names, _ := store.get(); return len(names) == 5 }, 5*time.Second, 10*time.Millisecond)
	stop()
	require.Equal(t, kmodquery.StateStandby, source.Sensor().State)
	require.Zero(t, source.Sensor().Lost)
}

func TestRunFailsWithoutALog(t *testing.T) {
	source := New(nil)
	source.log = filepath.Join(t.TempDir(), "audit.log")
	source.open = func() (kernelConn, error) { return nil, forbidden(unix.EPERM) }
	err := source.Run(t.Context(), func() { t.Error("ready") }, func(kmodquery.Delivery) {})
	require.ErrorContains(t, err, "CAP_AUDIT_READ")
	require.ErrorContains(t, err, "nor can the audit daemon's log be read")
	require.NotErrorIs(t, err, kmodquery.ErrNotSupported)
	require.NotContains(t, source.Sensor().Reason, "\n")

	require.NoError(t, unix.Mkfifo(source.log, 0o600))
	require.ErrorContains(t, source.Run(t.Context(), func() { t.Error("ready") }, func(kmodquery.Delivery) {}), "nor can")
}

func TestLogOfAnEarlierBootIsSkipped(t *testing.T) {
	w, store := newLogWriter(t), &memoryStore{}
	w.event(strings.ReplaceAll(insmodLines, "$ID", "1000000000.180:99999")) // long ago
	w.event(insmodLines)
	_, stop := followLog(t, w.path, store)
	names, _ := store.get()
	require.Equal(t, []string{"m2"}, names)
	stop()

	// A position of an earlier boot is continued.
	w.event(strings.ReplaceAll(insmodLines, "$ID", "1000000000.181:99998"))
	_, stop = followLog(t, w.path, store)
	names, _ = store.get()
	require.Equal(t, []string{"m2", "m3"}, names)
	require.Contains(t, store.events[1].Missing, "boot_id")
	stop()
}

func TestLogBackfillStartsAtItsBound(t *testing.T) {
	w, store := newLogWriter(t), &memoryStore{}
	w.event(insmodLines)
	source := New(func(context.Context) (string, error) { return "2 0 1 1", nil }) // an event that was rotated away
	source.log = w.path
	source.open = func() (kernelConn, error) { return nil, forbidden(unix.EPERM) }
	time.Sleep(2 * time.Millisecond)
	source.Backfill(time.Now(), time.Time{})
	time.Sleep(2 * time.Millisecond)
	w.event(insmodLines)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, source.Run(ctx, cancel, store.emit))
	require.Equal(t, []string{"m2"}, store.names)
	require.Zero(t, source.Sensor().Lost, "records from before the bound are not needed")
}

// The log is rotated in every way while the source runs and has not read everything.
func TestRotationsLoseAndRepeatNothing(t *testing.T) {
	for name, rotate := range map[string]func(w *logWriter){
		"none":         func(*logWriter) {},
		"by renaming":  (*logWriter).rotate,
		"twice":        func(w *logWriter) { w.rotate(); w.event(insmodLines); w.rotate() },
		"by copying":   (*logWriter).copyTruncate,
		"by both":      func(w *logWriter) { w.copyTruncate(); w.event(insmodLines); w.rotate() },
		"by both ways": func(w *logWriter) { w.rotate(); w.event(insmodLines); w.copyTruncate() },
		"with a date": func(w *logWriter) {
			require.NoError(w.t, os.Rename(w.path, w.path+fmt.Sprintf("-20261124-%05d", w.serial)))
			w.event(insmodLines) // into the old file, before the daemon gets its signal
			w.file.Close()
			w.create()
		},
		"in the middle of an event": func(w *logWriter) {
			text := w.record(insmodLines)
			w.write(text[:300])
			w.write(text[300:strings.Index(text, "type=PROCTITLE")])
			w.rotate()
			w.write(text[strings.Index(text, "type=PROCTITLE"):])
		},
		"in the middle of a line": func(w *logWriter) {
			w.write(`type=KERN_MODULE msg=audit(1795529435.180:2): name="du`)
			w.rotate()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, store := newLogWriter(t), &memoryStore{}
			source, stop := followLog(t, w.path, store)
			for range 3 {
				w.event(insmodLines)
				w.event(insmodLines)
				require.NoError(t, source.Sync(t.Context()))
				w.event(insmodLines)
				rotate(w)
				w.event(insmodLines)
				require.NoError(t, source.Sync(t.Context()))
			}
			stop()
			names, _ := store.get()
			require.Equal(t, upTo(w.serial), names)
			for _, e := range store.events {
				require.Equal(t, "insmod dummy.ko numdummies=2", e.Cmdline)
			}
			require.Zero(t, source.Sensor().Lost)

			w.event(insmodLines)
			_, stop = followLog(t, w.path, store)
			stop()
			names, _ = store.get()
			require.Equal(t, upTo(w.serial), names, "after a restart")
		})
	}
}

// Root renames the log as fast as it is opened.
func TestRotationsWithoutAnEndAreAnError(t *testing.T) {
	w := newLogWriter(t)
	f := follower{source: &Source{log: w.path}}
	renamed := 0
	_, _, err := f.after(func(*logfile.File) bool {
		from, to := w.path, w.path+".1"
		if renamed++; renamed%2 == 0 {
			from, to = to, from
		}
		require.NoError(t, os.Rename(from, to))
		require.Less(t, renamed, 10000)
		return true
	})
	require.ErrorContains(t, err, "renamed")
}

// The log is rotated at any moment of a read.
func TestRotationsWhileTheLogIsRead(t *testing.T) {
	w, store := newLogWriter(t), &memoryStore{}
	source, stop := followLog(t, w.path, store)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for range rotations / 2 {
			for range 10 {
				w.event(insmodLines)
			}
			w.rotate()
			time.Sleep(time.Millisecond)
		}
	}()
	for isOver := false; !isOver; {
		select {
		case <-written:
			isOver = true
		default:
		}
		require.NoError(t, source.Sync(t.Context()))
	}
	stop()
	names, _ := store.get()
	require.Equal(t, upTo(w.serial), names)
	require.Zero(t, source.Sensor().Lost)
}

func TestTruncationCountsAsLoss(t *testing.T) {
	w, store := newLogWriter(t), &memoryStore{}
	source, stop := followLog(t, w.path, store)
	w.event(insmodLines)
	require.NoError(t, source.Sync(t.Context()))
	require.NoError(t, os.Truncate(w.path, 0))
	w.event(insmodLines)
	require.NoError(t, source.Sync(t.Context()))
	require.EqualValues(t, 1, source.Sensor().Lost, "the number of lost records is unknown")

	// Truncated, and longer than before.
	require.NoError(t, os.Truncate(w.path, 0))
	for range 10 {
		w.event(insmodLines)
	}
	require.NoError(t, source.Sync(t.Context()))
	require.NoError(t, os.Remove(w.path))
	w.file.Close()
	w.create()
	w.event(insmodLines)
	require.NoError(t, source.Sync(t.Context()))
	stop()
	names, _ := store.get()
	require.Equal(t, upTo(13), names)
}

// The log is rotated while the source does not run.
func TestRestartContinuesAtThePosition(t *testing.T) {
	for name, rotate := range map[string]func(w *logWriter){
		"nothing happened":  func(*logWriter) {},
		"rotated":           (*logWriter).rotate,
		"rotated twice":     func(w *logWriter) { w.rotate(); w.event(insmodLines); w.rotate() },
		"copied":            (*logWriter).copyTruncate,
		"copied and longer": func(w *logWriter) { w.copyTruncate(); w.event(insmodLines); w.event(insmodLines) },
	} {
		t.Run(name, func(t *testing.T) {
			w, store := newLogWriter(t), &memoryStore{}
			for range 4 {
				w.event(insmodLines)
				w.event(deniedLines)
				source, stop := followLog(t, w.path, store)
				w.event(insmodLines)
				w.event(deniedLines)
				require.NoError(t, source.Sync(t.Context()))
				require.Zero(t, source.Sensor().Lost)
				stop()
				w.event(insmodLines)
				w.event(deniedLines)
				rotate(w)
			}
			source, stop := followLog(t, w.path, store)
			require.NoError(t, source.Sync(t.Context()))
			stop()
			names, denied := store.get()
			require.EqualValues(t, 12, denied)
			require.Len(t, names, w.serial-12)
			require.Len(t, slices.Compact(names), w.serial-12)
		})
	}
}

// Emitted events may wait in memory while the store fails.
func TestSameProcessContinuesAfterItsLastEmittedEvent(t *testing.T) {
	w := newLogWriter(t)
	var emitted memoryStore
	source, stop := followLog(t, w.path, &memoryStore{limit: -1})
	stop()
	stop = startSource(t, source, &emitted)
	w.event(insmodLines)
	require.NoError(t, source.Sync(t.Context()))
	stop()
	w.event(insmodLines)
	stop = startSource(t, source, &emitted)
	require.NoError(t, source.Sync(t.Context()))
	stop()
	names, _ := emitted.get()
	require.Equal(t, upTo(2), names)
}

func TestLostPositionCountsAsLoss(t *testing.T) {
	w, store := newLogWriter(t), &memoryStore{}
	w.event(insmodLines)
	_, stop := followLog(t, w.path, store)
	stop()
	require.NoError(t, os.Remove(w.path))
	w.file.Close()
	w.create()
	time.Sleep(2 * time.Millisecond)
	w.event(insmodLines)
	source, stop := followLog(t, w.path, store)
	require.EqualValues(t, 1, source.Sensor().Lost)
	stop()
	names, _ := store.get()
	require.Equal(t, upTo(2), names)

	for _, position := range []string{"", "nonsense", "3 1 1 1", "2 -1 0 0", "2 99999999 1 1", "1 0 0 -1 0 0 0 0", "1 0 0 0 0 0 99 0", store.position + "0"} {
		again := &memoryStore{position: position}
		_, stop := followLog(t, w.path, again)
		stop()
	}
}

// The process is killed at random events while a log is written and rotated.
func TestKilledRunsLoseAndRepeatNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for round := range 40 {
		w, store := newLogWriter(t), &memoryStore{}
		loads, denials := 0, int64(0)
		for range 12 {
			store.limit = random.IntN(6)
			source, stop := followLog(t, w.path, store)
			for range random.IntN(8) {
				switch random.IntN(9) {
				case 0:
					w.others()
				case 1:
					w.event(deniedLines)
					denials++
				case 2: // two at once, their lines among each other's
					first, second := strings.SplitAfter(w.record(insmodLines), "\n"), strings.SplitAfter(w.record(rmmodLines), "\n")
					w.write(first[0] + second[0] + second[1] + first[1] + second[2] + first[2])
					loads += 2
				case 3:
					if round%2 == 0 {
						w.rotate()
					} else {
						w.copyTruncate()
					}
				default:
					w.event(insmodLines)
					loads++
				}
				if random.IntN(3) == 0 {
					require.NoError(t, source.Sync(t.Context()))
				}
			}
			stop()
		}
		store.limit = 0
		source, stop := followLog(t, w.path, store)
		require.NoError(t, source.Sync(t.Context()))
		stop()
		names, denied := store.get()
		unique := slices.Clone(names)
		slices.Sort(unique)
		require.Equal(t, len(names), len(slices.Compact(unique)), "round %d: nothing twice", round)
		require.Len(t, names, loads, "round %d", round)
		require.Equal(t, denials, denied, "round %d", round)
		require.Zero(t, source.Sensor().Lost, "round %d", round)
	}
}

func TestLogFilesAreOrderedByAge(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"audit.log", "audit.log.1", "audit.log.2", "audit.log.10", "audit.log-20261124", "audit.log-20261123", "audit.log.3.gz",
		"audit.log.old", "audit.logs", "other.log",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "audit.log.4"), 0o700))
	files, err := logFiles(filepath.Join(dir, "audit.log"))
	require.NoError(t, err)
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	require.Equal(t, []string{"audit.log-20261123", "audit.log-20261124", "audit.log.10", "audit.log.2", "audit.log.1", "audit.log"}, files)
	_, err = logFiles(filepath.Join(dir, "none", "audit.log"))
	require.Error(t, err)
}

func TestPositionOfVersion1IsContinued(t *testing.T) {
	w, store := newLogWriter(t), &memoryStore{}
	w.event(insmodLines)
	_, stop := followLog(t, w.path, store)
	stop()
	last, ok := parsePosition(store.position)
	require.True(t, ok)
	store.position = fmt.Sprintf("1 7 8 %d %d %d 0 999", last.start, last.id.Millis, last.id.Serial)
	w.event(insmodLines)
	source, stop := followLog(t, w.path, store)
	stop()
	names, _ := store.get()
	require.Equal(t, upTo(2), names)
	require.Zero(t, source.Sensor().Lost)
}

func FuzzPosition(f *testing.F) {
	f.Add("1 2049 131 4096 1795529435180 2 0 8192")
	f.Add("2 4096 1795529435180 2")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		p, ok := parsePosition(text)
		if !ok {
			return
		}
		require.Less(t, len(p.String()), 1024)
		again, ok := parsePosition(p.String())
		require.True(t, ok)
		require.Equal(t, p, again)
	})
}
