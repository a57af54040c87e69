package kextlog

import (
	"path"
	"regexp"
	"strings"
)

// A Kind is what a statement reports.
type Kind int

const (
	Requested Kind = iota // a path, or an extension by its name, that was asked for
	Checked               // a candidate for the extension that was asked for; its path may be another one
	Direct                // the extension is about to be loaded
	Loaded                // the extension was loaded and started
	Unloaded              // the extension was unloaded
	Failed                // an attempt to load the extension failed; Result and Error are set
	Allowed               // the system policy allows the extension to load
	Blocked               // the system policy does not; Error is set
)

// A Statement is what a message reports about one extension.
type Statement struct {
	Kind Kind
	Name string // bundle id; "" if the message does not show it
	Description
	Result *int64 // negative if Kind is Failed, otherwise nil
	Error  string
	// IsDenied reports that the attempt failed because a policy denied it.
	IsDenied bool
	// IsCodeless reports that the extension has no executable. Another message may report
	// the same load.
	IsCodeless bool
	// IsUnparsed reports that the message begins like one of this kind and is not
	// understood.
	IsUnparsed bool
}

// A Description is what one message says of an extension. Empty strings are unknown.
type Description struct {
	Path    string // absolute path of the bundle
	Version string
	TeamID  string
	// CDHash is the hash of the extension's code directory, 40 hex digits.
	// syspolicyd prints it as the version; published logs show that it equals the
	// cdhash that codesign(1) prints. No other message has one.
	CDHash     string
	IsUnsigned bool
}

// refused is the result of a failed load whose message has no number: -EPERM.
const refused = -1

const (
	// maxStatements bounds the statements of one message.
	maxStatements = 64
	// maxIDBytes bounds a bundle id in a list.
	maxIDBytes = 255
	// private is what the log shows instead of a text that it keeps private.
	private = "<private>"
)

// An extension's author chooses its id and its version, which may hold any text.
const (
	bundleID = `(.{1,255})`
	version  = `v(.{1,64}?)`
	team     = `([A-Za-z0-9]{1,20}|\(null\))`
)

func compile(pattern string) *regexp.Regexp { return regexp.MustCompile(`(?s)^` + pattern + `$`) }

var (
	notified    = compile(`Received kext (load|unload) notification: ` + bundleID)
	notApproved = compile(`(?:failed to load/rebuild extensions|library rebuild request failed): Extensions? with identifiers? (.+) (not approved to load)\.(?: Please approve using System (?:Settings|Preferences)\.)?`)
	needsReboot = compile(`(?:failed to load/rebuild extensions|library rebuild request failed): Loading extension\(s\): (.+) (requires a reboot)\.?`)
	requested   = compile(`Handling loadOrRebuildRequest: \npaths: \[(.*?)\],\nidentifiers: \[(.*?)\](?:,?\n.*)?`)
	loading     = compile(`Loading paths: \[(.*)\]`)
	direct      = compile(`directLoadAuxiliaryExtensions: \[(.*)\]`)
	directItem  = regexp.MustCompile(`(?:^|, )([^,/\n]{1,255}?) v([^,/\n]{1,64}?) \([^()]*\) at\s+(/[^\n]*?)\s+signed @(none|team\(([A-Za-z0-9]{1,20})\))`)
	directHead  = regexp.MustCompile(` v[^,/\n]{1,64}? \([^()]*\) at\s`)
	checking    = compile(`[Cc]hecking (?:unstaged )?bundle path (/.*) for Kext ` + bundleID + ` ` + version + ` in executable kext bundle ` + bundleID + ` at /.*`)
	verdict     = compile(`Kernel Extension (ALLOWED|BLOCKED): Kext \(` + team + `, ` + bundleID + `\)(?:,? version: ([0-9a-f]{40}))?[^)]*`)
	codelessIn  = compile(`Loading codeless extension: Kext ` + bundleID + ` ` + version + ` in [a-z]+ kext bundle ` + bundleID + ` at (/.*)`)
	codeless    = compile(`Loading codeless extension: Kext ` + bundleID + ` v(\S{1,64})`)
	unusable    = compile(`Could not use '` + bundleID + `' because:? (.{1,200})`)
	badlySigned = compile(`(?:failed to load/rebuild extensions: )?Authenticating extension failed: Kext ` + bundleID + ` ` + version + ` in [a-z]+ kext bundle ` + bundleID + ` at /.*:\s+(?:Authenticating extension failed: )?Bad code signature\.?`)
	excluded    = compile(`Kext ` + bundleID + ` is in exclude list, not loadable\.?`)
	disabled    = compile(`Kext loading is disabled(?: \(attempt to load kext ` + bundleID + `\))?\.?`)
	unloadable  = compile(`Can't load kext ` + bundleID + ` - (.{1,200}?)\.?`)
	macDenied   = compile(`Failed to load kext ` + bundleID + ` \((MAC policy error 0x([0-9a-f]{1,8}))\)\.?`)
	loadFailed  = compile(`(?:Kext ` + bundleID + ` (?:start failed \(result |did not start \(return code |failed to load \()|Failed to load kext ` + bundleID + ` \(error )0x([0-9a-f]{1,8})\)\.?`)
)

// A form is one form of a program's messages.
type form struct {
	// begins is how messages of the form begin. One that does, and that no form of the
	// program parses, yields a statement of the kind without a name. Messages of other
	// kinds may begin like it if it is "".
	begins  string
	kind    Kind
	pattern *regexp.Regexp
	parse   func(match []string) []Statement // of a message that the pattern matches; nil if it is not understood
}

// programs are the trusted programs and the forms of their messages. System
// Integrity Protection protects the files.
var programs = []struct {
	path  string
	forms []form
}{
	{kernel, []form{
		{"Failed to load kext ", Failed, loadFailed, parseFailure},
		{"", Failed, macDenied, parseMACDenial},
		{"", Failed, excluded, func(m []string) []Statement { return failure(m[1], "in the exclude list", true) }},
		{"Kext loading is disabled", Failed, disabled, func(m []string) []Statement { return failure(m[1], "loading is disabled", false) }},
		{"Can't load kext ", Failed, unloadable, func(m []string) []Statement { return failure(m[1], m[2], false) }},
	}},
	{"/usr/libexec/kernelmanagerd", []form{
		{"Received kext load notification: ", Loaded, notified, parseNotification},
		{"Received kext unload notification: ", Unloaded, notified, parseNotification},
		{"failed to load/rebuild extensions: ", Failed, notApproved, parseRefusals},
		{"library rebuild request failed: ", Failed, needsReboot, parseRefusals},
		{"Could not use '", Failed, unusable, func(m []string) []Statement { return failure(m[1], m[2], false) }},
		{"Authenticating extension failed: ", Failed, badlySigned, parseBadSignature},
		{"Loading codeless extension: ", Loaded, codelessIn, parseCodelessIn},
		{"", Loaded, codeless, parseCodeless},
		{"Loading paths: ", Requested, loading, parsePaths},
		{"directLoadAuxiliaryExtensions: ", Direct, direct, parseDirectLoads},
		{"", Checked, checking, parseResolution},
	}},
	{helper, []form{
		{"Loading codeless extension: ", Loaded, codelessIn, parseCodelessIn},
		{"", Loaded, codeless, parseCodeless},
		{"Handling loadOrRebuildRequest: ", Requested, requested, parseRequest},
		{"", Checked, checking, parseResolution},
	}},
	{"/usr/libexec/syspolicyd", []form{
		{"Kernel Extension ALLOWED: ", Allowed, verdict, parseVerdict},
		{"Kernel Extension BLOCKED: ", Blocked, verdict, parseVerdict},
	}},
}

// Phrases returns texts for a predicate of log(1). Each message for which
// [Record.Statements] returns statements contains one of them.
func Phrases() []string {
	return []string{
		"load notification: ", "failed to load/rebuild extensions: ", "library rebuild request failed: ",
		"Handling loadOrRebuildRequest: ", "Loading paths: ", "directLoadAuxiliaryExtensions: ", "bundle path ",
		"Kernel Extension ALLOWED: ", "Kernel Extension BLOCKED: ", " start failed (result ", " did not start (return code ",
		"ailed to load ", "Can't load kext ", " is in exclude list, not loadable", "Kext loading is disabled",
		"Could not use '", "Authenticating extension failed: ", "Loading codeless extension: ",
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
		if p.path == r.process && r.isTrusted() {
			return statements(p.forms, r.Message)
		}
	}
	return nil
}

func statements(forms []form, message string) []Statement {
	for _, f := range forms {
		if match := f.pattern.FindStringSubmatch(message); match != nil {
			if all := f.parse(match); all != nil {
				return all
			}
		}
	}
	for _, f := range forms {
		if f.begins == "" || !strings.HasPrefix(message, f.begins) {
			continue
		}
		s := Statement{Kind: f.kind, IsUnparsed: true}
		switch f.kind {
		case Failed:
			s.Result, s.Error = new(int64(refused)), "an unknown cause"
		case Blocked:
			s.Error = blocked
		}
		return []Statement{s}
	}
	return nil
}

// idOf returns a bundle id that a message shows, and "" for one that the log hides.
func idOf(text string) string {
	if text == private {
		return ""
	}
	return text
}

func parseNotification(m []string) []Statement {
	kind := Loaded
	if m[1] == "unload" {
		kind = Unloaded
	}
	return []Statement{{Kind: kind, Name: idOf(m[2])}}
}

// parseRefusals returns a failure for each of the comma-separated ids, and one without a
// name for those beyond maxStatements.
func parseRefusals(m []string) []Statement {
	var all []Statement
	for id := range strings.SplitSeq(m[1], ",") {
		if id = strings.TrimSpace(id); id == "" || len(id) > maxIDBytes {
			return nil
		}
		s := Statement{Kind: Failed, Name: idOf(id), Result: new(int64(refused)), Error: m[2], IsDenied: m[2] == "not approved to load"}
		if len(all) == maxStatements {
			s.Name, s.IsUnparsed = "", true
			return append(all, s)
		}
		all = append(all, s)
	}
	return all
}

// parsePaths returns the paths of a request.
func parsePaths(m []string) []Statement {
	texts, ok := parseArray(m[1])
	if !ok {
		return nil
	}
	all := []Statement{}
	for _, text := range texts {
		p := path.Clean(text)
		if !isPath(p) {
			return nil
		}
		all = append(all, Statement{Kind: Requested, Description: Description{Path: p}})
	}
	return all
}

// parseRequest returns the paths and the bundle ids of a request.
func parseRequest(m []string) []Statement {
	all := parsePaths(m)
	ids, ok := parseArray(m[2])
	if all == nil || !ok {
		return nil
	}
	for _, id := range ids {
		if id == "" || len(id) > maxIDBytes {
			return nil
		}
		all = append(all, Statement{Kind: Requested, Name: idOf(id)})
	}
	return all
}

var (
	// arrayItem is a text in an array as Swift prints it, and unescape returns what it
	// stands for.
	arrayItem = regexp.MustCompile(`^"((?:[^"\\]|\\["\\'])*)"(?:, |$)`)
	unescape  = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\'`, `'`)
)

// parseArray returns the texts of an array as Swift prints it. It reports false if it
// is no such array, or a long one.
func parseArray(text string) ([]string, bool) {
	var all []string
	for text != "" {
		found := arrayItem.FindStringSubmatch(text)
		if found == nil || len(all) == maxStatements {
			return nil, false
		}
		all = append(all, unescape.Replace(found[1]))
		text = text[len(found[0]):]
	}
	return all, true
}

// parseDirectLoads returns the extensions that are about to be loaded. It returns nil
// if a text of them looks like a part of the list.
func parseDirectLoads(m []string) []Statement {
	items := directItem.FindAllStringSubmatch(m[1], maxStatements)
	if n := strings.Count(m[1], "signed @"); n != len(items) || n != len(directHead.FindAllString(m[1], n+1)) {
		return nil
	}
	all := []Statement{}
	for _, m := range items {
		if !isPath(m[3]) {
			return nil
		}
		d := Description{Version: m[2], Path: m[3], TeamID: m[5], IsUnsigned: m[4] == "none"}
		all = append(all, Statement{Kind: Direct, Name: idOf(m[1]), Description: d})
	}
	return all
}

// parseResolution returns a candidate for an id. A user can request a path that
// itself contains the words of the message; the message is then ignored.
func parseResolution(m []string) []Statement {
	hasOne := func(words string) bool { return strings.Count(m[0], words) == 1 }
	if m[2] != m[4] || !hasOne(" for Kext ") || !hasOne(" in executable kext bundle ") || !isPath(m[1]) {
		return nil
	}
	return []Statement{{Kind: Checked, Name: idOf(m[2]), Description: Description{Version: m[3], Path: path.Clean(m[1])}}}
}

// blocked is the error of an extension that the policy does not allow.
const blocked = "blocked by the system policy"

func parseVerdict(m []string) []Statement {
	s := Statement{Kind: Allowed, Name: idOf(m[3]), Description: Description{CDHash: m[4]}}
	if m[1] == "BLOCKED" {
		s.Kind, s.Error = Blocked, blocked
	}
	if m[2] != "(null)" {
		s.TeamID = m[2]
	}
	return []Statement{s}
}

func parseFailure(m []string) []Statement {
	result, name := parseReturn(m[3])
	return []Statement{{Kind: Failed, Name: idOf(m[1] + m[2]), Result: &result, Error: name, IsDenied: name == systemPolicy}}
}

// failure returns a failure without a number.
func failure(id, cause string, isDenied bool) []Statement {
	return []Statement{{Kind: Failed, Name: idOf(id), Result: new(int64(refused)), Error: cause, IsDenied: isDenied}}
}

// parseMACDenial returns a load that an Endpoint Security client, or another policy module,
// denied.
func parseMACDenial(m []string) []Statement {
	result, _ := parseReturn(m[3])
	return []Statement{{Kind: Failed, Name: idOf(m[1]), Result: &result, Error: m[2], IsDenied: true}}
}

func parseBadSignature(m []string) []Statement {
	if m[1] != m[3] {
		return nil
	}
	s := failure(m[1], "bad code signature", true)
	s[0].Version = m[2]
	return s
}

// parseCodelessIn returns the load of an extension without an executable.
func parseCodelessIn(m []string) []Statement {
	if m[1] != m[3] || !isPath(m[4]) {
		return nil
	}
	return []Statement{{Kind: Loaded, Name: idOf(m[1]), Description: Description{Version: m[2], Path: path.Clean(m[4])}, IsCodeless: true}}
}

func parseCodeless(m []string) []Statement {
	if strings.Contains(m[1], " kext bundle ") {
		return nil // another form of parseCodelessIn
	}
	return []Statement{{Kind: Loaded, Name: idOf(m[1]), Description: Description{Version: m[2]}, IsCodeless: true}}
}

// maxPath is PATH_MAX of macOS, in bytes.
const maxPath = 1024

func isPath(p string) bool {
	return len(p) > 1 && len(p) <= maxPath && p[0] == '/' && !strings.ContainsAny(p, "\x00\n")
}
