package kextlog

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStatements(t *testing.T) {
	failed := func(name string, result int64, cause string) Statement {
		return Statement{Kind: Failed, Name: name, Result: &result, Error: cause, IsDenied: cause == "not approved to load" || cause == "kOSKextReturnSystemPolicy"}
	}
	about := func(kind Kind, name string, d Description) Statement {
		return Statement{Kind: kind, Name: name, Description: d}
	}
	requested := func(path string) Statement { return about(Requested, "", Description{Path: path}) }
	unparsed := func(kind Kind) []Statement {
		s := Statement{Kind: kind, IsUnparsed: true}
		if kind == Failed {
			s.Result, s.Error = new(int64(-1)), "an unknown cause"
		}
		return []Statement{s}
	}
	denied := func(name, cause string) []Statement {
		return []Statement{{Kind: Failed, Name: name, Result: new(int64(-1)), Error: cause, IsDenied: true}}
	}
	const manager, policy, helperPath = "/usr/libexec/kernelmanagerd", "/usr/libexec/syspolicyd", "/usr/libexec/kernelmanager_helper"
	for _, test := range []struct {
		process, message string
		want             []Statement
	}{
		{manager, "Received kext load notification: " + probe, []Statement{{Kind: Loaded, Name: probe}}},
		{manager, "Received kext unload notification: " + probe, []Statement{{Kind: Unloaded, Name: probe}}},
		{manager, "Received kext load notification: com.vendor.My Driver", []Statement{{Kind: Loaded, Name: "com.vendor.My Driver"}}},
		{manager, "Received kext load notification: com.\u00e9vil.\n_x", []Statement{{Kind: Loaded, Name: "com.\u00e9vil.\n_x"}}},
		{manager, "Received kext load notification: <private>", []Statement{{Kind: Loaded}}},
		{manager, "Received kext load notification: " + strings.Repeat("x", 300), []Statement{{Kind: Loaded, IsUnparsed: true}}},
		{manager, "Received kext unload notification: ", []Statement{{Kind: Unloaded, IsUnparsed: true}}},
		{manager, "failed to load/rebuild extensions: Extension with identifiers " + probe + ",com.apple.nke.rvi not approved to load. Please approve using System Settings.",
			[]Statement{failed(probe, -1, "not approved to load"), failed("com.apple.nke.rvi", -1, "not approved to load")}},
		{manager, "failed to load/rebuild extensions: Extension with identifiers " + probe + " not approved to load. Please approve using System Preferences.",
			[]Statement{failed(probe, -1, "not approved to load")}},
		{manager, "failed to load/rebuild extensions: Loading extension(s): " + probe + " requires a reboot", []Statement{failed(probe, -1, "requires a reboot")}},
		{manager, "failed to load/rebuild extensions: Extension with identifiers com.example.a,,b c not approved to load.", unparsed(Failed)},
		{manager, "failed to load/rebuild extensions: Extension with identifiers com.example.a,b c not approved to load.",
			[]Statement{failed("com.example.a", -1, "not approved to load"), failed("b c", -1, "not approved to load")}},
		{manager, "library rebuild request failed: Extension with identifiers " + probe + " not approved to load. Please approve using System Preferences.",
			[]Statement{failed(probe, -1, "not approved to load")}},
		{manager, "library rebuild request failed: anything else", unparsed(Failed)},
		{manager, `Loading paths: ["/Library/Extensions/a \"b\".kext/", "/tmp/c.kext"]`, []Statement{requested(`/Library/Extensions/a "b".kext`), requested("/tmp/c.kext")}},
		{manager, `Loading paths: ["/tmp/c.kext]`, unparsed(Requested)},
		{helperPath, "Handling loadOrRebuildRequest: \npaths: [\"/tmp/c.kext\"],\nidentifiers: [],\nx", []Statement{requested("/tmp/c.kext")}},
		{helperPath, "Handling loadOrRebuildRequest: \npaths: [],\nidentifiers: [\"a\", \"com.vendor.My \\\"Driver\"]", []Statement{{Kind: Requested, Name: "a"}, {Kind: Requested, Name: `com.vendor.My "Driver`}}},
		{helperPath, "Handling loadOrRebuildRequest: \npaths: [\"/tmp/c.kext\"],\nidentifiers: [\"<private>\"],\nx", []Statement{requested("/tmp/c.kext"), {Kind: Requested}}},
		{helperPath, "Handling loadOrRebuildRequest: \npaths: [],\nidentifiers: []", []Statement{}},
		{helperPath, "Handling loadOrRebuildRequest: \npaths: [],\nidentifiers: [\"a]", unparsed(Requested)},
		{helperPath, "Handling loadOrRebuildRequest: \npaths: [],\nidentifiers: [" + strings.Repeat("\"a\", ", 65) + "]", unparsed(Requested)},
		{manager, "directLoadAuxiliaryExtensions: [" + probe + " v1.0.0 (D850472E) at /Library/Extensions/probe.kext  signed @none  x, com.vendor.raid v4.5 (x) at /Library/Extensions/a b.kext  signed @team(DX6G69M9N2)  y]",
			[]Statement{
				about(Direct, probe, Description{Version: "1.0.0", Path: "/Library/Extensions/probe.kext", IsUnsigned: true}),
				about(Direct, "com.vendor.raid", Description{Version: "4.5", Path: "/Library/Extensions/a b.kext", TeamID: "DX6G69M9N2"}),
			}},
		{manager, "directLoadAuxiliaryExtensions: [com.vgpu.probe v1.0.0 (...) at\n      /Library/Extensions/vgpuProbe.kext  signed @none  ...]",
			[]Statement{about(Direct, "com.vgpu.probe", Description{Version: "1.0.0", Path: "/Library/Extensions/vgpuProbe.kext", IsUnsigned: true})}},
		{manager, "directLoadAuxiliaryExtensions: [com.evil _driver v1.0 (b2) (D850) at /tmp/c.kext  signed @none  x]",
			[]Statement{about(Direct, "com.evil _driver", Description{Version: "1.0 (b2)", Path: "/tmp/c.kext", IsUnsigned: true})}},
		{manager, "directLoadAuxiliaryExtensions: [" + probe + " v1 (x) at /tmp/a signed @team(EQHXZ8M8AV)/b.kext  signed @none]", unparsed(Direct)},
		{manager, "directLoadAuxiliaryExtensions: [" + probe + " v1 (x) at /tmp/com.apple.x v1 (x) at /b.kext  signed @none]", unparsed(Direct)},
		{manager, "directLoadAuxiliaryExtensions: []", []Statement{}},
		{manager, "Could not process load notification in helper: Did not find identifier", nil},
		{helperPath, "Could not process load notification in helper: Did not find identifier (" + probe + ") in helper to process load notification", nil},
		{helperPath, "checking bundle path /Library/Extensions/p.kext for Kext " + probe + " v2 in executable kext bundle " + probe + " at /Library/Extensions/p.kext",
			[]Statement{about(Checked, probe, Description{Version: "2", Path: "/Library/Extensions/p.kext"})}},
		{manager, "Checking unstaged bundle path /L/p.kext for Kext " + probe + " v2 in executable kext bundle " + probe + " at /S/p.kext",
			[]Statement{about(Checked, probe, Description{Version: "2", Path: "/L/p.kext"})}},
		{manager, "checking bundle path /L/p.kext for Kext " + probe + " v2 in executable kext bundle com.example.other at /S/p.kext", nil},
		{helperPath, "Received kext load notification: " + probe, nil},
		{policy, "Kernel Extension ALLOWED: Kext (ABCDE12345, " + probe + ") version: " + cdhash, []Statement{about(Allowed, probe, Description{TeamID: "ABCDE12345", CDHash: cdhash})}},
		{policy, "Kernel Extension ALLOWED: Kext (ABCDE12345, " + probe + ") version: 1.2.3", []Statement{about(Allowed, probe, Description{TeamID: "ABCDE12345"})}},
		{policy, "Kernel Extension BLOCKED: Kext ((null), " + probe + ")", []Statement{{Kind: Blocked, Name: probe, Error: "blocked by the system policy"}}},
		{policy, "Kernel Extension ALLOWED: Kext (ABCDE12345, a) version: b) version: " + cdhash, []Statement{about(Allowed, "a) version: b", Description{TeamID: "ABCDE12345", CDHash: cdhash})}},
		{policy, "Kernel Extension BLOCKED: Kext (ABCDE12345, )", []Statement{{Kind: Blocked, Error: "blocked by the system policy", IsUnparsed: true}}},
		{policy, "Kernel Extension ALLOWED: anything else", unparsed(Allowed)},
		{policy, "Unsigned kext not present in the legacy kext list", nil},
		{"/kernel", "Kext " + probe + " start failed (result 0x5).", []Statement{failed(probe, -5, "0x5")}},
		{"/kernel", "Kext " + probe + " failed to load (0xdc008017).", []Statement{failed(probe, -603946985, "kOSKextReturnStartStopError")}},
		{"/kernel", "Failed to load kext " + probe + " (error 0xdc008016).", []Statement{failed(probe, -603946986, "kOSKextReturnLinkError")}},
		{"/kernel", "Failed to load kext " + probe + " (error 0xdc00801b).", []Statement{failed(probe, -603946981, "kOSKextReturnSystemPolicy")}},
		{"/kernel", "Failed to load kext " + probe + " (error 0xdc00801c).", []Statement{failed(probe, -603946980, "kOSKextReturnKCLoadFailure")}},
		{"/kernel", "Failed to load kext " + probe + " (error 0xdc00801e).", []Statement{failed(probe, -603946978, "kOSKextReturnKCLoadFailureAuxKC")}},
		{"/kernel", "Failed to load kext " + probe + " (error 0xdc00801f).", []Statement{failed(probe, -603946977, "0xdc00801f")}},
		{"/kernel", "Failed to load kext " + probe + " (MAC policy error 0x1).", denied(probe, "MAC policy error 0x1")},
		{"/kernel", "Kext " + probe + " is in exclude list, not loadable", denied(probe, "in the exclude list")},
		{"/kernel", "Kext loading is disabled (attempt to load kext " + probe + ").", []Statement{failed(probe, -1, "loading is disabled")}},
		{"/kernel", "Kext loading is disabled.", []Statement{failed("", -1, "loading is disabled")}},
		{"/kernel", "Kext loading is disabled (why)", unparsed(Failed)},
		{"/kernel", "Kext " + probe + " did not start (return code 0x5).", []Statement{failed(probe, -5, "0x5")}},
		{manager, "Could not use 'com.evil driver' because: it is too new", []Statement{failed("com.evil driver", -1, "it is too new")}},
		{manager, "Could not use x", nil},
		{manager, "Could not use 'x'", unparsed(Failed)},
		{manager, "Authenticating extension failed: Kext " + probe + " v2 in executable kext bundle " + probe + " at /private/var/x/p.kext:\n\nAuthenticating extension failed: Bad code signature",
			[]Statement{{Kind: Failed, Name: probe, Description: Description{Version: "2"}, Result: new(int64(-1)), Error: "bad code signature", IsDenied: true}}},
		{manager, "Authenticating extension failed: Bad code signature", unparsed(Failed)},
		{helperPath, "Loading codeless extension: Kext a v1 b v2", []Statement{{Kind: Loaded, Name: "a v1 b", Description: Description{Version: "2"}, IsCodeless: true}}},
		{manager, "Loading codeless extension: Kext " + probe + " v1.0 (b2) in codeless kext bundle " + probe + " at /L/a v2.kext",
			[]Statement{{Kind: Loaded, Name: probe, Description: Description{Version: "1.0 (b2)", Path: "/L/a v2.kext"}, IsCodeless: true}}},
		{manager, "Loading codeless extension: Kext " + probe + " v1 in codeless kext bundle other at /L/a v2.kext", unparsed(Loaded)},
		{"/kernel", "Kext " + probe + " start failed (result 0x0).", []Statement{failed(probe, -1, "0x0")}},
		{"/kernel", "Kext " + probe + " start failed (result 0x80000000).", []Statement{failed(probe, -1<<31, "0x80000000")}},
		{"/kernel", "Kext " + probe + " start failed (result 0x123456789).", nil},
		{"/kernel", "Kext com.evil _driver start failed (result 0x5).", []Statement{failed("com.evil _driver", -5, "0x5")}},
		{"/kernel", "Failed to load kext " + probe + ", because.", unparsed(Failed)},
		{"/kernel", "Can't load kext " + probe + " - link failed.", []Statement{failed(probe, -1, "link failed")}},
		{"/kernel", "Can't load kext " + probe, unparsed(Failed)},
	} {
		r := Record{process: test.process, sender: test.process, pid: 104, userID: new(int64(0)), Message: test.message}
		if r.process == "/kernel" {
			r.pid = 0
		}
		require.Equal(t, test.want, r.Statements(), test.message)
		if test.want != nil {
			requirePredicate(t, test.message)
		}
		r.process = "/tmp" + test.process
		require.Empty(t, r.Statements(), "%s logs %s", r.process, test.message)
	}
}

// requirePredicate requires that the predicate selects a message that Statements
// parses.
func requirePredicate(t *testing.T, message string) {
	t.Helper()
	for _, phrase := range Phrases() {
		if strings.Contains(message, phrase) {
			return
		}
	}
	t.Errorf("no phrase selects %q", message)
}

func TestStatementsOfOneMessageAreBounded(t *testing.T) {
	r := Record{process: "/usr/libexec/kernelmanagerd", pid: 1, Message: "failed to load/rebuild extensions: Extension with identifiers " + strings.Repeat(probe+",", 1000) + probe + " not approved to load."}
	require.Len(t, r.Statements(), maxStatements+1)
	require.True(t, r.Statements()[maxStatements].IsUnparsed)
}

func FuzzStatements(f *testing.F) {
	f.Add("/usr/libexec/kernelmanagerd", "Received kext load notification: "+probe)
	f.Add("/usr/libexec/kernelmanagerd", "failed to load/rebuild extensions: Extension with identifiers a,b not approved to load.")
	f.Add("/usr/libexec/kernelmanagerd", "directLoadAuxiliaryExtensions: ["+probe+" v1 (x) at /L/p.kext signed @team(ABCDE12345)]")
	f.Add("/usr/libexec/kernelmanager_helper", "checking bundle path /L/p.kext for Kext a.b v2 in executable kext bundle a.b at /L/p.kext")
	f.Add("/usr/libexec/syspolicyd", "Kernel Extension ALLOWED: Kext ((null), a.b) version: "+cdhash)
	f.Add("/kernel", "Kext a.b start failed (result 0x5).")
	f.Fuzz(func(t *testing.T, process, message string) {
		r := Record{process: process, pid: 104, Message: message}
		if process == "/kernel" {
			r.pid = 0
		}
		requireSane(t, r.Statements())
	})
}

func requireSane(t *testing.T, statements []Statement) {
	require.LessOrEqual(t, len(statements), maxStatements+1)
	for _, s := range statements {
		require.LessOrEqual(t, len(s.Name), 4*255)
		require.Equal(t, s.Kind == Failed, s.Result != nil)
		require.True(t, s.Path == "" || isPath(s.Path))
		require.True(t, s.CDHash == "" || len(s.CDHash) == 40)
		if s.Result != nil {
			require.Negative(t, *s.Result)
		}
	}
}
