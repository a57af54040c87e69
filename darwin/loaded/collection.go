package loaded

import (
	"context"
	"regexp"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// collectionsTime bounds the time for listing all collections.
	collectionsTime = 5 * time.Second
	// collectionsPause is the least time between two listings, and failedPause that after
	// one that listed nothing.
	collectionsPause = 10 * time.Second
	failedPause      = 10 * time.Minute
)

// collectionNames are the collections by the name that kmutil showloaded --collection takes
// for each. Its manual names the option and not the values.
var collectionNames = map[string]string{
	"boot": kmodquery.CollectionBoot, "sys": kmodquery.CollectionSystem,
	"aux": kmodquery.CollectionAuxiliary, "codeless": kmodquery.CollectionCodeless,
}

// collections knows from which collection each extension was loaded. It is safe for
// concurrent use.
type collections struct {
	mu    sync.Mutex
	names map[string]string // by bundle id
	next  time.Time         // the earliest time of the next listing
}

// Collection returns the collection from which a loaded extension came, one of the Collection
// constants. It is [kmodquery.CollectionUnknown] if kmutil lists the extension in none or in
// several, or lists nothing. A call may take some seconds.
func (k *Kexts) Collection(ctx context.Context, name string) string {
	c := &k.collections
	c.mu.Lock()
	defer c.mu.Unlock()
	if found := c.names[name]; found != "" {
		return found
	}
	if now := time.Now(); !now.Before(c.next) {
		c.names = k.listCollections(ctx)
		c.next = now.Add(collectionsPause)
		if len(c.names) == 0 {
			c.next = now.Add(failedPause)
		}
	}
	if found := c.names[name]; found != "" {
		return found
	}
	return kmodquery.CollectionUnknown
}

// listCollections returns the collections by the ids of their extensions. A collection that
// cannot be listed has none.
func (k *Kexts) listCollections(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, collectionsTime)
	defer cancel()
	names := map[string]string{}
	for value, collection := range collectionNames {
		text, _, err := run(ctx, collectionsTime, maxList, k.programs.Kmutil,
			"showloaded", "--list-only", "--no-kernel-components", "--collection", value)
		if err != nil {
			continue
		}
		modules, _ := parseList(text)
		for _, m := range modules {
			if names[m.Name] == "" {
				names[m.Name] = collection
			} else {
				names[m.Name] = kmodquery.CollectionUnknown
			}
		}
	}
	return names
}

var rootStatus = regexp.MustCompile(`(?m)^Authenticated Root status: (enabled|disabled)$`)

// AuthenticatedRoot returns 1 if the kernel only boots from a system volume with Apple's
// seal, 0 if it does not, and nil if that is unknown. It cannot change before the next boot.
func (k *Kexts) AuthenticatedRoot(ctx context.Context) *int64 {
	k.rootMu.Lock()
	defer k.rootMu.Unlock()
	if k.rootState == nil {
		text, _, err := run(ctx, collectionsTime, maxSignature, k.programs.Csrutil, "authenticated-root", "status")
		if m := rootStatus.FindStringSubmatch(text); err == nil && m != nil {
			k.rootState = new(int64(0))
			if m[1] == "enabled" {
				k.rootState = new(int64(1))
			}
		}
	}
	return k.rootState
}
