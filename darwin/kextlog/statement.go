package kextlog

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

// A Kind is what a statement reports.
type Kind int

const (
	described Kind = iota // details of an extension; nothing happened to it
	Loaded                // the extension was loaded and started
	Unloaded              // the extension was unloaded
	Failed                // an attempt to load the extension failed; Result and Error are set
	Allowed               // the system policy allows the extension to load
	Blocked               // the system policy does not; Error is set
)

// A Statement is what a message reports about one extension. Empty strings are
// unknown.
type Statement struct {
	Kind    Kind
	Name    string // bundle id
	Path    string // absolute path of the bundle
	Version string
	TeamID  string
	// CDHash is the hash of the extension's code directory, 40 hex digits.
	// syspolicyd prints it as the version; published logs show that it equals the
	// cdhash that codesign(1) prints. No other message has one.
	CDHash     string
	IsUnsigned bool
	Result     *int64 // negative if Kind is Failed, otherwise nil
	Error      string
}

// refused is the result of a failed load whose message has no number: -EPERM.
const refused = -1

// maxStatements bounds the statements of one message.
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

// Phrases returns texts for a predicate of log(1). Each message for which
// [Record.Statements] returns statements contains one of them.
func Phrases() []string {
	return []string{
		"load notification: ", "failed to load/rebuild extensions: ", "directLoadAuxiliaryExtensions: ", "bundle path ",
		"Kernel Extension ALLOWED: ", "Kernel Extension BLOCKED: ", " start failed (result ", "ailed to load ",
		"Kext rejected due to ", "Kext with invalid signature",
	}
}

// Processes returns the names of the programs whose messages [Record.Statements]
// trusts, for a predicate of log(1).
func Processes() []string {
	return []string{"kernel", "kernelmanagerd", "kernelmanager_helper", "syspolicyd", "kextd"}
}

// Statements returns what the record reports about extensions. It returns nil
// unless a program that handles extensions logged the record.
func (r *Record) Statements() []Statement {
	text := r.Message
	switch r.program() {
	case kernelmanagerd:
		if s := fromManager(text); s != nil {
			return s
		}
		return fromResolution(text)
	case helper:
		return fromResolution(text)
	case syspolicyd:
		return fromPolicy(text)
	case kernel:
		return fromKernel(text)
	case kextd:
		return fromKextd(text)
	}
	return nil
}

func fromManager(text string) []Statement {
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

// failures returns a failure for each of the comma-separated ids.
func failures(ids, cause string) []Statement {
	var all []Statement
	for id := range strings.SplitSeq(ids, ",") {
		if id = strings.TrimSpace(id); !wholeID.MatchString(id) {
			return nil
		}
		if len(all) < maxStatements {
			all = append(all, Statement{Kind: Failed, Name: id, Result: new(int64(refused)), Error: cause})
		}
	}
	return all
}

// directLoads returns the extensions that are about to be loaded. It returns nil if
// a path contains text that looks like a part of the list.
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
		all = append(all, Statement{Kind: described, Name: m[1], Version: m[2], Path: m[3], TeamID: m[5], IsUnsigned: m[4] == "none"})
	}
	return all
}

// fromResolution returns the bundle path of an id. A user can request a path that
// itself contains the words of the message; the message is then ignored.
func fromResolution(text string) []Statement {
	m := checking.FindStringSubmatch(text)
	if m == nil || m[2] != m[4] || strings.Count(text, " for Kext ") != 1 || strings.Count(text, " in executable kext bundle ") != 1 || !isPath(m[1]) {
		return nil
	}
	return []Statement{{Kind: described, Name: m[2], Version: m[3], Path: m[1]}}
}

func fromPolicy(text string) []Statement {
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

func fromKernel(text string) []Statement {
	name, hex := "", ""
	if m := startFailed.FindStringSubmatch(text); m != nil {
		name, hex = m[1], m[2]
	} else if m := loadFailed.FindStringSubmatch(text); m != nil {
		name, hex = m[1]+m[3], m[2]+m[4]
	}
	result, text, ok := parseReturn(hex)
	if !ok {
		return nil
	}
	return []Statement{{Kind: Failed, Name: name, Result: &result, Error: text}}
}

// unsigned is errSecCSUnsigned (Security/CSCommon.h).
const unsigned = "-67062"

func fromKextd(text string) []Statement {
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

// bundlePath returns the path of a URL as CoreFoundation prints it, or "". A
// relative URL is printed as "x.kext/ -- file:///folder/".
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

// maxPath is PATH_MAX of macOS, in bytes.
const maxPath = 1024

func isPath(p string) bool {
	return len(p) > 1 && len(p) <= maxPath && p[0] == '/' && !strings.ContainsAny(p, "\x00\n")
}
