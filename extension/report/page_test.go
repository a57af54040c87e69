package report

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/extension/virtualtable"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/signatures"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// noon is when the test's page is written.
var noon = time.Date(2026, 8, 14, 12, 0, 0, 0, time.UTC)

// A fakeHost has the modules, the lines and the sensors of a host.
type fakeHost struct {
	modules []kmodquery.Module
	lines   []kmodquery.AutostartEntry
	sensors []kmodquery.Sensor
	err     error // of the modules
}

func (f *fakeHost) Sync(context.Context) error                 { return nil }
func (f *fakeHost) Sensors(context.Context) []kmodquery.Sensor { return f.sensors }
func (f *fakeHost) Modules(context.Context) ([]kmodquery.Module, error) {
	return f.modules, f.err
}
func (f *fakeHost) Entries(context.Context) ([]kmodquery.AutostartEntry, error) { return f.lines, nil }
func (f *fakeHost) FileAt(_ context.Context, path string) kmodquery.ModuleFile {
	return kmodquery.ModuleFile{Path: path}
}
func (f *fakeHost) Package(_ context.Context, path string) (string, bool) {
	if strings.HasPrefix(path, "/usr/lib/") {
		return "systemd", true
	}
	return "", true
}
func (f *fakeHost) File(_ context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	if m.Name == "ext4" || m.Name == "nf_tables" {
		return kmodquery.ModuleFile{Path: "/usr/lib/modules/6.12.48/kernel/" + m.Name + ".ko.xz", Package: "linux-image-6.12.48", SHA256: strings.Repeat("ab", 32), Signer: "Debian Secure Boot Signer"}
	}
	return kmodquery.ModuleFile{Path: m.Path}
}

// newPage returns the page of a host with these events.
func newPage(t *testing.T, host *fakeHost, replyBytes int64, events ...kmodquery.Event) string {
	t.Helper()
	store, err := sqlite.Open(t.Context(), t.TempDir(), sqlite.Options{Now: func() time.Time { return noon }})
	require.NoError(t, err)
	defer store.Close()
	var deliveries []kmodquery.Delivery
	for _, event := range events {
		deliveries = append(deliveries, kmodquery.Delivery{Event: event})
	}
	require.NoError(t, store.Append(t.Context(), deliveries))
	require.NoError(t, store.CloseLoads(t.Context(), time.Now()))
	db, err := virtualtable.OpenShell(t.Context(), tables.Plugins(tables.Config{
		Store: store, Cursors: store, Recorder: host, Inventory: host, Autostart: host, Signatures: signatures.All(), Kernel: "6.12.48", ReplyBytes: replyBytes,
	})...)
	require.NoError(t, err)
	defer db.Close()
	return write(t, db)
}

func write(t *testing.T, db *sql.DB) string {
	t.Helper()
	var page strings.Builder
	require.NoError(t, Write(t.Context(), db, &page, Options{Host: "web-4.example.org", Kernel: "6.12.48+deb13-amd64", Version: "0.1.0", Since: noon.Add(-7 * 24 * time.Hour), Now: noon}))
	return page.String()
}

// load returns the events of one attempt to load a module.
func load(at time.Time, name string, result int64, change func(*kmodquery.Event)) (events []kmodquery.Event) {
	boot := "6f1c2d3e-0000-4000-8000-000000000002"
	if at.Before(noon.Add(-3 * 24 * time.Hour)) {
		boot = "6f1c2d3e-0000-4000-8000-000000000001"
	}
	for _, eventName := range []string{kmodquery.EventSecurityKernelReadFile, kmodquery.EventModuleLoad, kmodquery.EventFinitModule} {
		e := kmodquery.Event{
			Time: at.Unix(), TimeNanos: at.UnixNano(), Uptime: new(int64(at.Sub(noon.Add(-8*24*time.Hour)) / time.Second)), BootID: boot,
			EventName: eventName, Source: kmodquery.SourceEBPF, LoadID: fmt.Sprintf("%s-%d", name, at.UnixNano()), Name: name,
			Path: "/usr/lib/modules/6.12.48/kernel/" + name + ".ko.xz", Origin: kmodquery.OriginFile, SHA256: strings.Repeat("4f", 32),
			SignatureStatus: "valid", Signer: "Debian Secure Boot Signer", ProcessName: "modprobe", ProcessPath: "/usr/bin/kmod",
			Cmdline: "/sbin/modprobe -q -- " + name, Pid: new(int64(812)), UID: new(int64(0)), ReportsLoad: new(int64(0)),
		}
		switch eventName {
		case kmodquery.EventSecurityKernelReadFile:
			e.Type, e.ReportsLoad = kmodquery.TypeKernelModule, new(int64(1))
		case kmodquery.EventModuleLoad:
			if result != 0 {
				continue
			}
		case kmodquery.EventFinitModule:
			e.Result = &result
			if result != 0 {
				e.Error = "EKEYREJECTED"
			}
		}
		if change != nil {
			change(&e)
		}
		events = append(events, e)
	}
	return events
}

// week returns a host and a week of its events, with all that a page shows.
func week() (*fakeHost, []kmodquery.Event) {
	var events []kmodquery.Event
	add := func(more ...kmodquery.Event) { events = append(events, more...) }
	for i, name := range []string{"ext4", "nf_tables", "br_netfilter", "overlay", "veth", "xt_conntrack", "wireguard", "tls", "nbd", "loop"} {
		for day := range 6 {
			add(load(noon.Add(-time.Duration(7*24-day*24-i*2-1)*time.Hour), name, 0, nil)...)
		}
	}
	unsigned := func(e *kmodquery.Event) {
		e.Path, e.SignatureStatus, e.Signer, e.Cmdline, e.ProcessName, e.ProcessPath = "/tmp/.X11/"+e.Name+".ko", "unsigned", "", "insmod /tmp/.X11/"+e.Name+".ko", "insmod", "/usr/bin/kmod"
		e.UID, e.Taints = new(int64(0)), new(int64(taintUnsigned|taintOutOfTree))
	}
	add(load(noon.Add(-26*time.Hour), "diag", 0, unsigned)...)
	add(load(noon.Add(-25*time.Hour), "diag2", -129, unsigned)...)
	add(load(noon.Add(-24*time.Hour), "blob", 0, func(e *kmodquery.Event) {
		unsigned(e)
		e.Path, e.Origin, e.Cmdline, e.ProcessPath = "/memfd:a", kmodquery.OriginMemfd, "python3 -c …", "/usr/bin/python3.13"
		e.ContainerID = strings.Repeat("3e7a", 16)
	})...)
	for _, name := range []string{kmodquery.EventModuleHidden, kmodquery.EventSensorTampered} {
		add(kmodquery.Event{Time: noon.Add(-23 * time.Hour).Unix(), TimeNanos: noon.Add(-23 * time.Hour).UnixNano(), BootID: "6f1c2d3e-0000-4000-8000-000000000002", Uptime: new(int64(90000)),
			EventName: name, Source: kmodquery.SourceProcfs, Name: map[bool]string{true: "diag"}[name == kmodquery.EventModuleHidden], Reason: "sysfs and kallsyms show it, /proc/modules does not"})
	}
	host := &fakeHost{
		modules: []kmodquery.Module{
			{Name: "ext4", State: "Live", Views: []string{kmodquery.ViewModules, kmodquery.ViewSysfs}},
			{Name: "nf_tables", State: "Live", Views: []string{kmodquery.ViewModules, kmodquery.ViewSysfs}},
			{Name: "diag", Views: []string{kmodquery.ViewSysfs, kmodquery.ViewKallsyms}, Taints: new(int64(taintUnsigned | taintOutOfTree)), Path: "/tmp/.X11/diag.ko"},
			{Name: "vendor", State: "Live", Views: []string{kmodquery.ViewModules}, Taints: new(int64(taintForced)), Path: "/opt/vendor/vendor.ko"},
		},
		lines: []kmodquery.AutostartEntry{
			{Place: kmodquery.PlaceModulesLoad, Stage: kmodquery.StageBoot, File: "/etc/modules-load.d/diag.conf", Line: 1, Text: "diag", Action: "load", Name: "diag", Effective: new(int64(1))},
			{Place: kmodquery.PlaceModulesLoad, Stage: kmodquery.StageBoot, File: "/usr/lib/modules-load.d/fwupd.conf", Line: 1, Text: "msr", Action: "load", Name: "msr", Effective: new(int64(1))},
			{Place: kmodquery.PlaceModprobe, Stage: kmodquery.StageAutoload, File: "/usr/lib/modprobe.d/aliases.conf", Line: 5, Text: "options snd-pcsp index=-2", Action: "options", Name: "snd_pcsp", Effective: new(int64(1))},
			{Place: kmodquery.PlaceModulesLoad, Stage: kmodquery.StageBoot, File: "/etc/modules-load.d/masked.conf", Line: 1, Text: "masked", Action: "load", Name: "masked", Effective: new(int64(0))},
		},
		sensors: []kmodquery.Sensor{
			{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive, Since: noon.Add(-72 * time.Hour).Unix(), Received: 4711, LastEventTime: noon.Add(-time.Hour).Unix(), GapStart: noon.Add(-72 * time.Hour).Unix(), GapEnd: noon.Add(-72*time.Hour + 4*time.Second).Unix()},
			{Source: kmodquery.SourceAudit, State: kmodquery.StateStandby, Reason: "not needed while ebpf watches"},
			{Source: kmodquery.SourceJournal, State: kmodquery.StateFailed, Reason: "read the journal's end with journalctl: exit status 1"},
			{Source: kmodquery.SourceProcfs, State: kmodquery.StateActive, Since: noon.Add(-72 * time.Hour).Unix()},
		},
	}
	return host, events
}

func TestPageShowsTheWeek(t *testing.T) {
	host, events := week()
	page := newPage(t, host, 0, events...)
	if path := os.Getenv("KMODQUERY_REPORT_PAGE"); path != "" { // to look at it
		require.NoError(t, os.WriteFile(path, []byte(page), 0o644))
	}
	requireValid(t, page)
	text := textOf(t, page)
	for _, want := range []string{
		"Kernel modules on web-4.example.org", "2026-08-07 12:00:00 to 2026-08-14 12:00:00 UTC",
		"attempts to load a module in 2 boots",
		"KMQ-1005", "critical", "/tmp/.X11/diag.ko", "insmod /tmp/.X11/diag.ko — /usr/bin/kmod [pid 812, user 0]", "container 3e7a3e7a3e7a",
		"/memfd:a (memfd)", "unsigned", "Debian Secure Boot Signer", "rejected EKEYREJECTED",
		"2 lines, 1 of them in files that no package owns.", "/etc/modules-load.d/diag.conf",
		"2 of 4 loaded modules differ, 1 hidden.", "hidden: the kernel's own list omits it; unsigned; from out of the kernel's tree; no package owns its file",
		"forced; no package owns its file", "4 sensors, 1 of them failed; gaps: 1.", "read the journal's end", "2026-08-11 12:00:04", "4s",
	} {
		require.Contains(t, text, want)
	}
	for _, left := range []string{"masked.conf", "aliases.conf"} {
		require.NotContains(t, text, left)
	}
	require.Less(t, strings.Index(text, "KMQ-1005: "), strings.Index(text, "TRC-1017: "), "critical comes before moderate")
	require.Less(t, strings.Index(text, "TRC-1017: "), strings.Index(text, "KMQ-1001: "), "moderate comes before low")
}

func TestPageOfAnEmptyStore(t *testing.T) {
	page := newPage(t, &fakeHost{}, 0)
	requireValid(t, page)
	require.Contains(t, textOf(t, page), "None in this window.")
}

// What cannot be read says so, and the rest is shown.
func TestPartThatFailsIsNamed(t *testing.T) {
	host, events := week()
	host.err = errors.New("views hang <b>")
	page := newPage(t, host, 0, events...)
	requireValid(t, page)
	require.Contains(t, textOf(t, page), "This part could not be read:")
	require.Contains(t, textOf(t, page), "views hang <b>")
	require.Contains(t, textOf(t, page), "Health of the sensors")
}

// Names, paths and command lines are chosen by the host.
func TestHostileTextStaysText(t *testing.T) {
	evil := "</td><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\x1b[31m\u202e\xff'\"{{.}}"
	host, events := week()
	for i := range events {
		events[i].Name, events[i].Path, events[i].Cmdline, events[i].ProcessPath, events[i].Signer, events[i].ContainerID, events[i].BootID, events[i].Reason = evil, evil, evil, evil, evil, evil, evil, evil
	}
	host.modules[2].Name, host.lines[0].Text, host.sensors[1].Reason = evil, evil, evil
	page := newPage(t, host, 0, events...)
	requireValid(t, page)
	require.NotContains(t, page, "<script")
	require.NotContains(t, page, "<img")
	require.NotContains(t, page, "\x1b")
	require.NotContains(t, page, "\u202e")
	require.Contains(t, textOf(t, page), `<script>alert(1)</script>`)
}

func TestPageIsBounded(t *testing.T) {
	host, _ := week()
	long := strings.Repeat("é\x01", 5000)
	var events []kmodquery.Event
	for i := 299; i >= 0; i-- {
		events = append(events, load(noon.Add(-time.Duration(i)*time.Minute), fmt.Sprintf("m%d", i), 0, func(e *kmodquery.Event) {
			e.Cmdline, e.Signer, e.SignatureStatus = long, fmt.Sprintf("signer %d", i), "untrusted"
		})...)
	}
	for i := range 400 {
		host.modules = append(host.modules, kmodquery.Module{Name: fmt.Sprintf("h%d", i), Views: []string{kmodquery.ViewSysfs}, Path: long})
		host.lines = append(host.lines, kmodquery.AutostartEntry{Place: kmodquery.PlaceModprobe, File: "/etc/x", Line: int64(i), Text: long, Action: "load", Effective: new(int64(1))})
	}
	page := newPage(t, host, math.MaxInt64, events...)
	requireValid(t, page)
	require.Less(t, len(page), 2<<20)
	text := textOf(t, page)
	require.Contains(t, text, "The newest 200 are shown.")
	require.Contains(t, text, "280 more are left out.")
	require.Contains(t, text, "m0")
	require.NotContains(t, text, "m299")
}

// A store may have more than one query returns.
func TestPageOfTooManyRowsShowsTheNewest(t *testing.T) {
	host, _ := week()
	var events []kmodquery.Event
	for i := 799; i >= 0; i-- {
		events = append(events, load(noon.Add(-time.Duration(i)*time.Minute), fmt.Sprintf("m%d", i), 0, nil)...)
	}
	page := newPage(t, host, 80<<10, events...)
	requireValid(t, page)
	text := textOf(t, page)
	require.Contains(t, text, "There are more rows than one query returns, so this part begins at 2026-08-1")
	require.NotContains(t, text, "could not be read")
}

// If the newest that fit are of one second, the table advises a number of an event.
func TestPageOfTooManyRowsInOneSecondShowsTheNewest(t *testing.T) {
	host, _ := week()
	var events []kmodquery.Event
	for i := range 800 {
		events = append(events, load(noon.Add(-time.Hour+time.Duration(i)*time.Microsecond), fmt.Sprintf("m%d", i), 0, nil)...)
	}
	page := newPage(t, host, 80<<10, events...)
	requireValid(t, page)
	text := textOf(t, page)
	require.Contains(t, text, "so this part shows the newest.")
	require.NotContains(t, text, "could not be read")
	require.Contains(t, text, "m799")
}

func TestCellsAreSafe(t *testing.T) {
	var made table
	made.add("a\x1b[31m\u202e\xff", strings.Repeat("x", 2*maxText))
	require.Equal(t, `a\x1b[31m\xe2\x80\xae\xff`, made.Rows[0][0])
	require.Equal(t, strings.Repeat("x", maxText)+"…", made.Rows[0][1])
}

func TestScreenshotIsOfThisPage(t *testing.T) {
	info, err := os.Stat(filepath.Join("..", "..", "docs", "report.png"))
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(300<<10))
}
