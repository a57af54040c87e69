package osqueryhost

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/osquery/osquery-go/gen/osquery"
)

// registries are the plugin kinds that an extension may broadcast. osquery has
// more of them, for its own use.
var registries = []string{
	"config", "config_parser", "database", "distributed", "enroll", "event_publisher",
	"event_subscriber", "killswitch", "logger", "numeric_monitoring", "sql", "table",
}

// tableRegistry is the one registry whose plugins the host itself uses.
const tableRegistry = "table"

// leastSDK is the oldest SDK that core accepts (kSDKVersionChanges,
// interface.cpp).
const leastSDK = "1.7.7"

// A refusal is core's response to an extension in osquery's own words, which extensions
// search for.
type refusal string

func (r refusal) Error() string { return string(r) }

// A registration is an extension and the plugins that it announced.
type registration struct {
	info   osquery.InternalExtensionInfo
	routes osquery.ExtensionRegistry
	pinged bool
}

// A registry maps plugins to the extensions that provide them.
type registry struct {
	mu         sync.Mutex
	core       []*coreTable      // never changed after the start
	modules    map[string]string // tables of extensions that SQLite ever attached, by lower-case name
	closed     bool
	extensions map[osquery.ExtensionRouteUUID]registration
	changed    chan struct{} // closed at the next change
	generation int           // counts changes
}

func newRegistry() *registry {
	return &registry{
		extensions: map[osquery.ExtensionRouteUUID]registration{},
		modules:    map[string]string{},
		changed:    make(chan struct{}),
	}
}

// register follows ExtensionManagerInterface::registerExtension
// (interface.cpp) and RegistryFactory::addBroadcast, with their messages.
func (r *registry) register(info osquery.InternalExtensionInfo, routes osquery.ExtensionRegistry) (osquery.ExtensionRouteUUID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.extensions {
		if other.info.Name == info.Name {
			return 0, refusal("Duplicate extension registered")
		}
	}
	if !versionAtLeast(leastSDK, info.SdkVersion) {
		return 0, refusal("Incompatible extension SDK version")
	}
	if err := r.checkRoutes(routes); err != nil {
		return 0, refusal("Failed adding registry: " + err.Error())
	}
	if r.closed {
		return 0, refusal("the worker has ended")
	}
	uuid := r.unusedUUID()
	for name := range routes[tableRegistry] {
		r.modules[strings.ToLower(name)] = name
	}
	r.extensions[uuid] = registration{info: info, routes: routes}
	r.change()
	return uuid, nil
}

func (r *registry) checkRoutes(routes osquery.ExtensionRegistry) error {
	for _, kind := range slices.Sorted(maps.Keys(routes)) {
		if !slices.Contains(registries, kind) {
			return refusal("Unknown registry: " + kind)
		}
		for _, item := range slices.Sorted(maps.Keys(routes[kind])) {
			if _, taken := r.owner(kind, item); taken {
				return refusal("Registry item " + item + " conflicts with another item of the same name.")
			}
			if kind == tableRegistry && len(routes[kind][item]) == 0 {
				return refusal("Invalid route info")
			}
		}
	}
	return nil
}

// provider returns the extension that provides an item; 0 is core.
func (r *registry) provider(kind, item string) (osquery.ExtensionRouteUUID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.owner(kind, item)
}

// owner is provider for callers that hold the lock.
func (r *registry) owner(kind, item string) (osquery.ExtensionRouteUUID, bool) {
	if kind == tableRegistry {
		for _, t := range r.core {
			if t.name == item {
				return 0, true
			}
		}
	}
	for uuid, extension := range r.extensions {
		if _, ok := extension.routes[kind][item]; ok {
			return uuid, true
		}
	}
	return 0, false
}

func (r *registry) unusedUUID() osquery.ExtensionRouteUUID {
	for {
		uuid := osquery.ExtensionRouteUUID(1 + rand.IntN(1<<16-1))
		if _, used := r.extensions[uuid]; !used {
			return uuid
		}
	}
}

// remove removes an extension and its plugins. It reports whether the extension was
// registered.
func (r *registry) remove(uuid osquery.ExtensionRouteUUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.extensions[uuid]; !ok {
		return false
	}
	delete(r.extensions, uuid)
	r.change()
	return true
}

// clear removes all extensions when the worker ends, and refuses new ones.
func (r *registry) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	clear(r.extensions)
	r.change()
}

// dropped reports whether a name is that of a table whose extension was removed, and how
// it was spelled.
func (r *registry) dropped(name string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name, ok := r.modules[strings.ToLower(name)]
	return name, ok
}

// firstPing reports whether this is the first call for a registered extension.
func (r *registry) firstPing(uuid osquery.ExtensionRouteUUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	extension, ok := r.extensions[uuid]
	if !ok || extension.pinged {
		return false
	}
	extension.pinged = true
	r.extensions[uuid] = extension
	return true
}

func (r *registry) change() {
	r.generation++
	close(r.changed)
	r.changed = make(chan struct{})
}

// snapshot returns the current registrations, a number that changes with each change,
// and a channel that is closed at the next change.
func (r *registry) snapshot() (map[osquery.ExtensionRouteUUID]registration, int, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.extensions), r.generation, r.changed
}
