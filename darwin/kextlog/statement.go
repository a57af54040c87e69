package kextlog

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

// A Kind is what a statement says.
type Kind int

const (
	Described Kind = iota // something is known of an extension; nothing happened to it
	Loaded                // it is in the kernel and was started
	Unloaded              // it went
	Failed                // the attempt to load it failed; Result and Error say how
	Allowed               // the system's policy lets it load
	Blocked               // the system's policy does not; Error says why
)

// A Statement is what a message says of one extension. Empty texts are unknown.
type Statement struct {
	Kind    Kind
	Name    string // bundle id
	Path    string // of the bundle, absolute
	Version string
	TeamID  string
	// CDHash is the hash of the extension's code directory, 40 hex digits. It is
	// what syspolicyd calls a version: people found it equal to what codesign(1)
	// shows, and no other message has one.
	CDHash     string
	IsUnsigned bool
	Result     *int64 // negative, of what Failed
	Error      string
}

// refused is the result of a load that no number was given for: -EPERM.
const refused = -1

// maxStatements bounds what one message may say.
const maxStatements = 64

const (
	bundleID = `([A-Za-z0-9][A-Za-z0-9._-]{0,254})`
	version  = `v([^\s()]{1,64})`
	team     = `([A-Za-z0-9]{1,20}|\(null\))`
)

var (
	notified    = regexp.MustCompile(`^Received kext (load|unload) notification: ` + bundleID + `$`)
	notApproved = regexp.MustCompile(`^failed to load/rebuild extensions: Extensions? with identifiers? ([A-Za-z0-9._, -]+) (not approved to load)\.(?: Please approve using System (?:Settings|Preferences)\.)?$`)
	needsReboot = regexp.MustCompile(`^failed to load/rebuild extensions: Loading extension\(s\): ([A-Za-z0-9._, -]+) (requires a reboot)\.?$`)
	direct      = regexp.MustCompile(`(?s)^directLoadAuxiliaryExtensions: \[(.*)\]$`)
	directHead  = regexp.MustCompile(bundleID + ` ` + version + ` \(`)
	directItem  = regexp.MustCompile(bundleID + ` ` + version + ` \([^()]*\) at\s+(/[^\n]*?)\s+signed @(none|team\(([A-Za-z0-9]{1,20})\))`)
	checking    = regexp.MustCompile(`^[Cc]hecking (?:unstaged )?bundle path (/.*) for Kext ` + bundleID + ` ` + version + ` in executable kext bundle ` + bundleID + ` at /.*$`)
	verdict     = regexp.MustCompile(`^Kernel Extension (ALLOWED|BLOCKED): Kext \(` + team + `, ` + bundleID + `\)(?:,? version: ([0-9a-f]{40}))?(?:\s.*)?$`)
	startFailed = regexp.MustCompile(`^Kext ` + bundleID + ` start failed \(result 0x([0-9a-f]{1,8})\)\.?$`)
	loadFailed  = regexp.MustCompile(`^(?:Kext ` + bundleID + ` failed to load \(0x([0-9a-f]{1,8})\)|Failed to load kext ` + bundleID + ` \(error 0x([0-9a-f]{1,8})\))\.?$`)
	rejected    = regexp.MustCompile(`^Kext (?:rejected due to ([^:<>{}]{1,200})|with invalid signatured? \((-?[0-9]{1,10})\) allowed): <OSKext [^<>{}]*> \{ URL = "([^"]*)", ID = "` + bundleID + `" \}$`)
)

// Phrases are parts of every message that [Record.Statements] reads, for a
// predicate of log(1).
func Phrases() []string {
	return []string{
		"load notification: ", "failed to load/rebuild extensions: ", "directLoadAuxiliaryExtensions: ", "bundle path ",
		"Kernel Extension ALLOWED: ", "Kernel Extension BLOCKED: ", " start failed (result ", "ailed to load ",
		"Kext rejected due to ", "Kext with invalid signature",
	}
}

// Processes are the names of the programs whose messages [Record.Statements]
// reads, for a predicate of log(1).
func Processes() []string {
	return []string{"kernel", "kernelmanagerd", "kernelmanager_helper", "syspolicyd", "kextd"}
}

// Statements is what a record says of extensions, which is nothing unless one of
// the programs that handle them said it.
func (r *Record) Statements() []Statement {
	text := r.Message
	switch r.speaker() {
	case kernelmanagerd:
		if s := ofManager(text); s != nil {
			return s
		}
		return ofResolution(text)
	case helper:
		return ofResolution(text)
	case syspolicyd:
		return ofPolicy(text)
	case kernel:
		return ofKernel(text)
	case kextd:
		return ofKextd(text)
	}
	return nil
}

func ofManager(text string) []Statement {
	if m := notified.FindStringSubmatch(text); m != nil {
		kind := Loaded
		if m[1] == "unload" {
			kind = Unloaded
		}
		return []Statement{{Kind: kind, Name: m[2]}}
	}
	for _, form := range []*regexp.Regexp{notApproved, needsReboot} {
		if m := form.FindStringSubmatch(text); m != nil {
			return failures(m[1], m[2])
		}
	}
	if m := direct.FindStringSubmatch(text); m != nil {
		return directLoads(m[1])
	}
	return nil
}

var wholeID = regexp.MustCompile(`^` + bundleID + `$`)

// failures reads ids that commas part.
func failures(ids, why string) []Statement {
	var all []Statement
	for id := range strings.SplitSeq(ids, ",") {
		if id = strings.TrimSpace(id); !wholeID.MatchString(id) {
			return nil
		}
		if len(all) < maxStatements {
			all = append(all, Statement{Kind: Failed, Name: id, Result: new(int64(refused)), Error: why})
		}
	}
	return all
}

// directLoads reads the extensions that are about to be loaded. Where a path has
// words in it that look like the list's own, nothing of the list is believed.
func directLoads(list string) []Statement {
	items := directItem.FindAllStringSubmatch(list, maxStatements)
	if n := strings.Count(list, "signed @"); n != len(items) || n != len(directHead.FindAllString(list, n+1)) {
		return nil
	}
	var all []Statement
	for _, m := range items {
		if !isPath(m[3]) {
			return nil
		}
		all = append(all, Statement{Kind: Described, Name: m[1], Version: m[2], Path: m[3], TeamID: m[5], IsUnsigned: m[4] == "none"})
	}
	return all
}

// ofResolution reads where the bundle of an id is. Anybody may ask for a path
// that has such words in it: then nothing is believed.
func ofResolution(text string) []Statement {
	m := checking.FindStringSubmatch(text)
	if m == nil || m[2] != m[4] || strings.Count(text, " for Kext ") != 1 || strings.Count(text, " in executable kext bundle ") != 1 || !isPath(m[1]) {
		return nil
	}
	return []Statement{{Kind: Described, Name: m[2], Version: m[3], Path: m[1]}}
}

func ofPolicy(text string) []Statement {
	m := verdict.FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	s := Statement{Kind: Allowed, Name: m[3], CDHash: m[4]}
	if m[1] == "BLOCKED" {
		s.Kind, s.Error = Blocked, "blocked by the system policy"
	}
	if m[2] != "(null)" {
		s.TeamID = m[2]
	}
	return []Statement{s}
}

func ofKernel(text string) []Statement {
	name, hex := "", ""
	if m := startFailed.FindStringSubmatch(text); m != nil {
		name, hex = m[1], m[2]
	} else if m := loadFailed.FindStringSubmatch(text); m != nil {
		name, hex = m[1]+m[3], m[2]+m[4]
	}
	result, why, ok := parseReturn(hex)
	if !ok {
		return nil
	}
	return []Statement{{Kind: Failed, Name: name, Result: &result, Error: why}}
}

// unsigned is errSecCSUnsigned of Security/CSCommon.h.
const unsigned = "-67062"

func ofKextd(text string) []Statement {
	m := rejected.FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	s := Statement{Kind: Allowed, Name: m[4], Path: bundlePath(m[3]), IsUnsigned: m[2] == unsigned}
	if m[1] != "" {
		s.Kind, s.Error = Blocked, m[1]
	}
	return []Statement{s}
}

// bundlePath is the path in a URL as CoreFoundation describes one, which for a
// relative one is "x.kext/ -- file:///folder/".
func bundlePath(text string) string {
	relative, base, hasBase := strings.Cut(text, " -- ")
	if !hasBase {
		relative, base = "", text
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "file" {
		return ""
	}
	if relative, err = url.PathUnescape(relative); err != nil {
		return ""
	}
	if p := path.Join(u.Path, relative); isPath(p) {
		return p
	}
	return ""
}

// maxPath is PATH_MAX of macOS.
const maxPath = 1024

func isPath(p string) bool {
	return len(p) > 1 && len(p) <= maxPath && p[0] == '/' && !strings.ContainsAny(p, "\x00\n")
}
