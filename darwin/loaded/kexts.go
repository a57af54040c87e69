package loaded

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
)

// Kexts are the kernel extensions of this host. They may be used concurrently
// and hold nothing open.
type Kexts struct {
	programs host.Programs
	bundles  bundles

	mu     sync.Mutex
	memory *memory // as KextPolicy was
	as     fingerprint
}

// New returns those that these programs know of.
func New(programs host.Programs) *Kexts {
	return &Kexts{programs: programs, bundles: bundles{folders: bundleFolders}}
}

// Listed returns the extensions that the kernel lists, without its own
// components. A call takes as long as kmutil does, up to a second.
func (k *Kexts) Listed(ctx context.Context) ([]kmodquery.Module, error) {
	return k.list(ctx)
}

// Modules returns the same with what KextPolicy remembers of each: where it was
// loaded from and when, who signed it, and who let it load. Without KextPolicy
// this stays unknown; [Kexts.Shown] tells why.
func (k *Kexts) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	modules, err := k.list(ctx)
	if err != nil {
		return nil, err
	}
	memory, _ := k.remember(ctx)
	for i := range modules {
		memory.describe(&modules[i])
	}
	return modules, nil
}

// All returns those and the ones that KextPolicy remembers, of this boot and
// earlier ones, and that are not loaded now: as [kmodquery.ModuleGone].
func (k *Kexts) All(ctx context.Context) ([]kmodquery.Module, error) {
	modules, err := k.Modules(ctx)
	if err != nil {
		return nil, err
	}
	isThere := map[string]bool{}
	for _, m := range modules {
		isThere[m.Name] = true
	}
	memory, _ := k.remember(ctx)
	for _, load := range memory.history {
		if load.bundle == "" || isThere[load.bundle] {
			continue
		}
		isThere[load.bundle] = true
		m := kmodquery.Module{Name: load.bundle, State: kmodquery.ModuleGone}
		memory.describe(&m)
		modules = append(modules, m)
	}
	return modules, nil
}

// Confirm returns none: what the kernel does not list cannot be seen on macOS.
func (k *Kexts) Confirm(context.Context, []kmodquery.Module) ([]kmodquery.Module, error) {
	return nil, nil
}

// Taint is 0: macOS's kernel has none.
func (k *Kexts) Taint(context.Context) (int64, error) { return 0, nil }

// Shown names the views that can be had, and says what keeps KextPolicy away, or
// what this macOS does not keep in it.
func (k *Kexts) Shown() (shown []string, reason string) {
	shown = []string{kmodquery.ViewShowloaded}
	memory, err := k.remember(context.Background())
	if err != nil {
		return shown, strings.Join(strings.Fields(err.Error()), " ")
	}
	if len(memory.lacks) > 0 {
		reason = "KextPolicy of this macOS lacks " + strings.Join(memory.lacks, ", ")
	}
	if slices.Contains(memory.lacks, "kext_load_history_v3") {
		return shown, reason + ": nothing is known of earlier loads"
	}
	return append(shown, kmodquery.ViewKextPolicy), reason
}

// remember returns what KextPolicy holds, and an empty memory with the error
// where it cannot be read. It is read again when it changes.
func (k *Kexts) remember(ctx context.Context) (*memory, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, err := fingerprintOf(k.programs.KextPolicy)
	if err != nil {
		k.memory = nil
		return &memory{}, explainPolicy(k.programs.KextPolicy, err)
	}
	if k.memory != nil && now == k.as {
		return k.memory, nil
	}
	read, err := readPolicy(ctx, k.programs.KextPolicy)
	if err != nil {
		k.memory = nil
		return &memory{}, err
	}
	k.memory, k.as = read, now
	return read, nil
}

// describe adds what is remembered of an extension.
func (m *memory) describe(module *kmodquery.Module) {
	load := m.latest(module.Name)
	if load != nil {
		module.Views = append(module.Views, kmodquery.ViewKextPolicy)
		if strings.HasPrefix(load.path, "/") {
			module.Path = load.path
		}
		module.TeamID, module.CDHash = load.team, load.cdhash
		if !load.seen.IsZero() {
			module.LastLoaded = new(load.seen.Unix())
		}
	}
	module.Policy = m.policy(module.TeamID, module.Name)
}
