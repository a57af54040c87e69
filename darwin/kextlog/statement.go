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
	wholeID     = regexp.MustCompile(`^` + bundleID + `$`)
	notified    = regexp.MustCompile(`^Received kext (load|unload) notification: ` + bundleID + `$`)
	notApproved = regexp.MustCompile(`^failed to load/rebuild extensions: Extensions? with identifiers? ([A-Za-z0-9._, -]+) (not approved to load)\.(?: Please approve using System (?:Settings|Preferences)\.)?$`)
	needsReboot = regexp.MustCompile(`^failed to load/rebuild extensions: Loading extension\(s\): ([A-Za-z0-9._, -]+) (requires a reboot)\.?$`)
	direct      = regexp.MustCompile(`(?s)^directLoadAuxiliaryExtensions: \[(.*)\]$`)
	directHead  = regexp.MustCompile(bundleID + ` ` + version + ` \(`)
	directItem  = regexp.MustCompile(bundleID + ` ` + version + ` \([^()]*\) at\s+(/[^\n]*?)\s+signed @(none|team\(([A-Za-z0-9]{1,20})\))`)
	checking    = regexp.MustCompile(`^[Cc]hecking (?:unstaged )?bundle path (/.*) for Kext ` + bundleID + ` ` + version + ` in executable kext bundle ` + bundleID + ` at /.*$`)
	verdict     = regexp.MustCompile(`^Kernel Extension (ALLOWED|BLOCKED): Kext \(` + team + `, ` + bundleID + `\)(?:,? version: ([0-9a-f]{40}))?(?:\s.*)?$`)
	loadFailed  = regexp.MustCompile(`^(?:Kext ` + bundleID + ` (?:start failed \(result |failed to load \()|Failed to load kext ` + bundleID + ` \(error )0x([0-9a-f]{1,8})\)\.?$`)
	rejected    = regexp.MustCompile(`^Kext (?:rejected due to ([^:<>{}]{1,200})|with invalid signatured? \((-?[0-9]{1,10})\) allowed): <OSKext [^<>{}]*> \{ URL = "([^"]*)", ID = "` + bundleID + `" \}$`)
)

// A form is one form of a program's messages.
type form struct {
	pattern *regexp.Regexp
	parse   func(match []string) []Statement // of a message that the pattern matches
}

// programs are the trusted programs and the forms of their messages. System
// Integrity Protection protects the files.
var programs = []struct {
	path  string
	forms []form
}{
	{kernel, []form{{loadFailed, parseFailure}}},
	{"/usr/libexec/kernelmanagerd", []form{
		{notified, parseNotification},
		{notApproved, parseRefusals},
		{needsReboot, parseRefusals},
		{direct, parseDirectLoads},
		{checking, parseResolution},
	}},
	{helper, []form{{checking, parseResolution}}},
	{"/usr/libexec/syspolicyd", []form{{verdict, parseVerdict}}},
	{"/usr/libexec/kextd", []form{{rejected, parseRejection}}}, // up to macOS 10.15
}

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
	var names []string
	for _, p := range programs {
		names = append(names, path.Base(p.path))
	}
	return names
}

// Statements returns what the record reports about extensions. It returns nil
// unless a program that handles extensions logged the record.
func (r *Record) Statements() []Statement {
	for _, p := range programs {
		if p.path != r.process || !r.isTrusted() {
			continue
		}
		for _, f := range p.forms {
			if match := f.pattern.FindStringSubmatch(r.Message); match != nil {
				return f.parse(match)
			}
		}
	}
	return nil
}

func parseNotification(m []string) []Statement {
	kind := Loaded
	if m[1] == "unload" {
		kind = Unloaded
	}
	return []Statement{{Kind: kind, Name: m[2]}}
}

// parseRefusals returns a failure for each of the comma-separated ids.
func parseRefusals(m []string) []Statement {
	var all []Statement
	for id := range strings.SplitSeq(m[1], ",") {
		if id = strings.TrimSpace(id); !wholeID.MatchString(id) {
			return nil
		}
		if len(all) < maxStatements {
			all = append(all, Statement{Kind: Failed, Name: id, Result: new(int64(refused)), Error: m[2]})
		}
	}
	return all
}

// parseDirectLoads returns the extensions that are about to be loaded. It returns nil
// if a path contains text that looks like a part of the list.
func parseDirectLoads(m []string) []Statement {
	items := directItem.FindAllStringSubmatch(m[1], maxStatements)
	if n := strings.Count(m[1], "signed @"); n != len(items) || n != len(directHead.FindAllString(m[1], n+1)) {
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

// parseResolution returns the bundle path of an id. A user can request a path that
// itself contains the words of the message; the message is then ignored.
func parseResolution(m []string) []Statement {
	hasOne := func(words string) bool { return strings.Count(m[0], words) == 1 }
	if m[2] != m[4] || !hasOne(" for Kext ") || !hasOne(" in executable kext bundle ") || !isPath(m[1]) {
		return nil
	}
	return []Statement{{Kind: described, Name: m[2], Version: m[3], Path: m[1]}}
}

func parseVerdict(m []string) []Statement {
	s := Statement{Kind: Allowed, Name: m[3], CDHash: m[4]}
	if m[1] == "BLOCKED" {
		s.Kind, s.Error = Blocked, "blocked by the system policy"
	}
	if m[2] != "(null)" {
		s.TeamID = m[2]
	}
	return []Statement{s}
}

func parseFailure(m []string) []Statement {
	result, name := parseReturn(m[3])
	return []Statement{{Kind: Failed, Name: m[1] + m[2], Result: &result, Error: name}}
}

// unsigned is errSecCSUnsigned (Security/CSCommon.h).
const unsigned = "-67062"

func parseRejection(m []string) []Statement {
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
