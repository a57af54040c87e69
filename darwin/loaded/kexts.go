package loaded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/internal/lookup"
)

// Kexts reads the kernel extensions of this host. It is safe for concurrent use and
// keeps no files open.
type Kexts struct {
	programs    host.Programs
	remote      func() ([]string, error)
	bundles     bundles
	collections collections
	files       *lookup.Runner[kmodquery.ModuleFile]
	policies    *lookup.Runner[policyRead]

	mu     sync.Mutex
	policy *policy     // the content of KextPolicy, nil if not read yet
	read   fingerprint // of KextPolicy when it was read

	rootMu    sync.Mutex
	rootState *int64 // 1 if the authenticated root is on, nil if not known yet

	listing  sync.Mutex // guards unparsed; apart from mu because reading KextPolicy may block
	unparsed []string   // the lines of the last list that begin like one of an extension and do not parse
}

// New returns a Kexts that uses these programs. remote returns the mount points of the file
// systems from which it must not read, as [host.RemoteMounts] does.
func New(programs host.Programs, remote func() ([]string, error)) *Kexts {
	k := &Kexts{
		programs: programs, remote: remote, bundles: bundles{folders: bundleFolders},
		files: lookup.New[kmodquery.ModuleFile](), policies: lookup.New[policyRead](),
	}
	k.policies.Timeout = policyTime
	return k
}

// Modules returns the listed extensions with what KextPolicy has about each: from
// which path and when it was loaded, who signed it, and who allowed it, and its collection. If KextPolicy
// cannot be read, these values are unknown and [Kexts.Shown] returns the reason.
func (k *Kexts) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	modules, err := k.Listed(ctx)
	if err != nil {
		return nil, err
	}
	policy, _ := k.readPolicy(ctx)
	for i := range modules {
		policy.describe(&modules[i])
		modules[i].Collection = k.Collection(ctx, modules[i].Name)
	}
	return modules, nil
}

// All returns the result of Modules and the extensions in KextPolicy's history that
// are not loaded now, in state [kmodquery.ModuleGone].
func (k *Kexts) All(ctx context.Context) ([]kmodquery.Module, error) {
	modules, err := k.Modules(ctx)
	if err != nil {
		return nil, err
	}
	isThere := map[string]bool{}
	for _, m := range modules {
		isThere[m.Name] = true
	}
	policy, _ := k.readPolicy(ctx)
	for _, load := range policy.history {
		if load.bundle == "" || isThere[load.bundle] {
			continue
		}
		isThere[load.bundle] = true
		m := kmodquery.Module{Name: load.bundle, State: kmodquery.ModuleGone}
		policy.describe(&m)
		modules = append(modules, m)
	}
	return modules, nil
}

// Confirm returns no modules: macOS shows nothing that the kernel does not list.
func (k *Kexts) Confirm(context.Context, []kmodquery.Module) ([]kmodquery.Module, error) {
	return nil, nil
}

// Taint returns 0: the kernel of macOS has no taint.
func (k *Kexts) Taint(context.Context) (int64, error) { return 0, nil }

// Shown returns the available views. The reason says what of the list is not understood, and
// why KextPolicy cannot be read, or what it lacks on this version of macOS.
func (k *Kexts) Shown() (shown []string, reason string) {
	k.listing.Lock()
	unparsed := k.unparsed
	k.listing.Unlock()
	shown, reason = k.shownPolicy()
	if len(unparsed) > 0 {
		text := fmt.Sprintf("lines of kmutil that are not understood: %d, such as %q", len(unparsed), unparsed[0])
		reason = strings.TrimSuffix(text+"; "+reason, "; ")
	}
	return shown, reason
}

func (k *Kexts) shownPolicy() (shown []string, reason string) {
	shown = []string{kmodquery.ViewShowloaded}
	policy, err := k.readPolicy(context.Background())
	if err != nil {
		return shown, strings.Join(strings.Fields(err.Error()), " ")
	}
	if len(policy.lacks) > 0 {
		reason = "KextPolicy of this macOS lacks " + strings.Join(policy.lacks, ", ")
	}
	if slices.Contains(policy.lacks, "kext_load_history_v3") {
		return shown, reason + ": earlier loads are unknown"
	}
	return append(shown, kmodquery.ViewKextPolicy), reason
}

// A policyRead is the result of reading KextPolicy.
type policyRead struct {
	policy *policy
	err    error
}

// readPolicy returns the content of KextPolicy, or an empty policy and an error if it
// cannot be read. It reads KextPolicy again when it has changed.
func (k *Kexts) readPolicy(ctx context.Context) (*policy, error) {
	read, ok := k.policies.Run(ctx, "", func(ctx context.Context) policyRead {
		policy, err := k.readChangedPolicy(ctx)
		return policyRead{policy, err}
	})
	if !ok {
		return &policy{}, cmp.Or(ctx.Err(), errors.New("KextPolicy cannot be read: its file system does not answer"))
	}
	return read.policy, read.err
}

// readChangedPolicy does what readPolicy does. It may block.
func (k *Kexts) readChangedPolicy(ctx context.Context) (*policy, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, err := fingerprintOf(k.programs.KextPolicy)
	if err == nil && k.policy != nil && now == k.read {
		return k.policy, nil
	}
	if k.policy, err = readPolicy(ctx, k.programs.KextPolicy); err != nil {
		return &policy{}, err
	}
	k.read = now
	return k.policy, nil
}
