package osqueryhost

import (
	"cmp"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Pack is a group of scheduled queries as osquery reads it from a file
// (Pack::initialize, packs.cpp), before it is matched with this host.
type Pack struct {
	Name      string           `json:"-"`
	Platform  string           `json:"platform"`
	Version   string           `json:"version"`
	Shard     number           `json:"shard"`
	Discovery []string         `json:"discovery"`
	Queries   map[string]Query `json:"queries"`
}

// A Query is a query of a pack.
type Query struct {
	Query       string  `json:"query"`
	Interval    *number `json:"interval"` // seconds
	Removed     *truth  `json:"removed"`
	Snapshot    truth   `json:"snapshot"`
	Denylist    *truth  `json:"denylist"`
	Platform    string  `json:"platform"`
	Version     string  `json:"version"`
	Shard       number  `json:"shard"`
	Description string  `json:"description"`
	Value       string  `json:"value"`
}

const (
	defaultInterval = 3600   // --schedule_default_interval
	maxInterval     = 604800 // kMaxQueryInterval
)

// ReadPack reads a pack file. The pack's name is the file's name without its extension,
// which is the usual name in osquery's configuration.
func ReadPack(path string) (Pack, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Pack{}, fmt.Errorf("read pack: %w", err)
	}
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	return ParsePack(name, content)
}

// ParsePack reads the JSON of a pack. Lines that begin with # or // are
// comments, and a backslash at the end of a line joins it with the next.
func ParsePack(name string, content []byte) (Pack, error) {
	pack := Pack{Name: name}
	if err := json.Unmarshal([]byte(stripComments(string(content))), &pack); err != nil {
		return Pack{}, fmt.Errorf("parse pack %s: %w", name, err)
	}
	return pack, nil
}

// stripComments follows stripConfigComments, config.cpp.
func stripComments(config string) string {
	var kept []string
	for line := range strings.Lines(strings.ReplaceAll(config, "\\\n", "")) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "//") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// A scheduledQuery is a query of a pack that runs on this host.
type scheduledQuery struct {
	name     string // with the pack's
	sql      string
	interval int64
	removed  bool
	snapshot bool
	denylist bool // whether a query that killed its worker is not run for a day
}

// scheduled returns the pack's queries that run on a host with these options, by name.
// It returns none if the pack does not run there.
func (p Pack) scheduled(options Options) []scheduledQuery {
	if !p.runsOn(options) {
		return nil
	}
	var queries []scheduledQuery
	for name, q := range p.Queries {
		interval := int64(defaultInterval)
		if q.Interval != nil {
			interval = int64(*q.Interval)
		}
		if q.Query == "" || interval <= 0 || interval > maxInterval || !options.run(q.Shard, q.Platform, q.Version) {
			continue
		}
		queries = append(queries, scheduledQuery{
			name:     "pack_" + p.Name + "_" + name,
			sql:      q.Query,
			interval: interval,
			removed:  q.Removed == nil || bool(*q.Removed),
			snapshot: bool(q.Snapshot),
			denylist: q.Denylist == nil || bool(*q.Denylist),
		})
	}
	slices.SortFunc(queries, func(a, b scheduledQuery) int { return cmp.Compare(a.name, b.name) })
	return queries
}

// runsOn reports whether the pack runs on a host with these options.
func (p Pack) runsOn(options Options) bool { return options.run(p.Shard, p.Platform, p.Version) }

// run reports whether a pack or query with these restrictions runs.
func (o Options) run(shard number, platform, version string) bool {
	return (shard == 0 || int(shard) >= machineShard(o.HostIdentifier)) &&
		platformMatches(platform, o.Platform) &&
		(version == "" || version == "null" || versionAtLeast(version, o.Version))
}

// machineShard returns the percentage to which osquery maps the host's name
// (getMachineShard, packs.cpp).
func machineShard(hostname string) int {
	return int(sha1.Sum([]byte(hostname))[0]) * 100 / 255
}

// platformMatches follows checkPlatform, osquery/core/system.cpp: it searches the text
// for words and ignores separators.
func platformMatches(wanted, platform string) bool {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(wanted, word) })
	}
	switch {
	case wanted == "" || wanted == "null" || has("any", "all", platform):
		return true
	case platform == "linux":
		return has("ubuntu", "centos", "posix")
	case platform == "darwin":
		return has("posix")
	}
	return false
}

// A number is a JSON number or a string that holds one (JSON::valueToSize).
type number int64

// UnmarshalJSON accepts 60 and "60". Text that is not a number is 0.
func (n *number) UnmarshalJSON(content []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(content), `"`), 10, 64)
	if err != nil {
		v = 0
	}
	*n = number(v)
	return nil
}

// A truth is a JSON boolean, number, or string (JSON::valueToBool).
type truth bool

// UnmarshalJSON takes true, 1, "true" and "t" as true. Everything else is false.
func (t *truth) UnmarshalJSON(content []byte) error {
	switch value := strings.ToLower(string(content)); value {
	case "true", `"true"`, `"t"`:
		*t = true
	default:
		n, err := strconv.ParseInt(value, 10, 64)
		*t = err == nil && n != 0
	}
	return nil
}
