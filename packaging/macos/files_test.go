package macos

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"howett.net/plist"
)

// program is the path at which the README installs kmodquery.ext.
const program = "/usr/local/libexec/kmodquery.ext"

func read(t *testing.T, name string, to any) {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	format, err := plist.Unmarshal(text, to)
	require.NoError(t, err)
	require.Equal(t, plist.XMLFormat, format)
}

func TestTheServiceHasOnlyKeysOfLaunchd(t *testing.T) {
	const name = "com.kmodquery.record"
	var service struct {
		Label             string   `plist:"Label"`
		ProgramArguments  []string `plist:"ProgramArguments"`
		UserName          string   `plist:"UserName"`
		RunAtLoad         bool     `plist:"RunAtLoad"`
		KeepAlive         bool     `plist:"KeepAlive"`
		ThrottleInterval  int      `plist:"ThrottleInterval"`
		ExitTimeOut       int      `plist:"ExitTimeOut"`
		Umask             int      `plist:"Umask"`
		ProcessType       string   `plist:"ProcessType"`
		StandardOutPath   string   `plist:"StandardOutPath"`
		StandardErrorPath string   `plist:"StandardErrorPath"`
	}
	read(t, name+".plist", &service)
	require.Equal(t, name, service.Label, "launchd expects a file of this name")
	require.Equal(t, []string{program, "record"}, service.ProgramArguments)
	require.Equal(t, "root", service.UserName)
	require.True(t, service.RunAtLoad && service.KeepAlive)
	require.Positive(t, service.ThrottleInterval)
	require.Positive(t, service.ExitTimeOut)
	require.Equal(t, 0o077, service.Umask)
	require.Equal(t, "Interactive", service.ProcessType, "launchd throttles a service of any other type")
	require.Equal(t, "/var/log/kmodquery.log", service.StandardOutPath)
	require.Equal(t, service.StandardOutPath, service.StandardErrorPath)

	// launchd ignores unknown keys. These are in launchd.plist(5).
	var keys map[string]any
	read(t, name+".plist", &keys)
	for key := range keys {
		require.Contains(t, []string{
			"Label", "ProgramArguments", "UserName", "GroupName", "RunAtLoad", "KeepAlive", "ThrottleInterval", "ExitTimeOut",
			"Umask", "ProcessType", "WorkingDirectory", "StandardInPath", "StandardOutPath", "StandardErrorPath",
		}, key)
	}
}

var uuid = regexp.MustCompile(`^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`)

// A Payload has the keys of every payload. It is exported because the library ignores
// embedded structs that are not.
type Payload struct {
	Type       string `plist:"PayloadType"`
	Version    int    `plist:"PayloadVersion"`
	Scope      string `plist:"PayloadScope"`
	Identifier string `plist:"PayloadIdentifier"`
	UUID       string `plist:"PayloadUUID"`
}

type access struct {
	Identifier      string `plist:"Identifier"`
	IdentifierType  string `plist:"IdentifierType"`
	CodeRequirement string `plist:"CodeRequirement"`
	StaticCode      bool   `plist:"StaticCode"`
	Allowed         bool   `plist:"Allowed"`
}

func TestTheProfileGrantsFullDiskAccessOnly(t *testing.T) {
	var profile struct {
		Payload
		Content []struct {
			Payload
			Services map[string][]access `plist:"Services"`
		} `plist:"PayloadContent"`
	}
	read(t, "kmodquery-full-disk-access.mobileconfig", &profile)
	require.Equal(t, "Configuration System", profile.Type+" "+profile.Scope)
	require.Len(t, profile.Content, 1)
	content := profile.Content[0]
	require.Equal(t, "com.apple.TCC.configuration-profile-policy", content.Type)
	require.Equal(t, []int{1, 1}, []int{profile.Version, content.Version})
	require.Regexp(t, uuid, profile.UUID)
	require.Regexp(t, uuid, content.UUID)
	require.NotEqual(t, profile.UUID, content.UUID)
	require.NotEqual(t, profile.Identifier, content.Identifier)
	require.Equal(t, map[string][]access{"SystemPolicyAllFiles": {{
		Identifier: program, IdentifierType: "path", Allowed: true,
		CodeRequirement: `identifier "kmodquery.ext" and anchor apple generic and certificate 1[field.1.2.840.113635.100.6.2.6] and certificate leaf[field.1.2.840.113635.100.6.1.13] and certificate leaf[subject.OU] = "TEAMID0000"`,
	}}}, content.Services)
}

func TestTheProfileKeepsTheServiceOn(t *testing.T) {
	type rule struct {
		Type   string `plist:"RuleType"`
		Value  string `plist:"RuleValue"`
		TeamID string `plist:"TeamIdentifier"`
	}
	var profile struct {
		Payload
		Content []struct {
			Payload
			Rules []rule `plist:"Rules"`
		} `plist:"PayloadContent"`
	}
	read(t, "kmodquery-login-items.mobileconfig", &profile)
	require.Equal(t, "Configuration System", profile.Type+" "+profile.Scope)
	require.Len(t, profile.Content, 1)
	content := profile.Content[0]
	require.Equal(t, "com.apple.servicemanagement", content.Type)
	require.Equal(t, []int{1, 1}, []int{profile.Version, content.Version})
	require.Regexp(t, uuid, profile.UUID)
	require.Regexp(t, uuid, content.UUID)
	require.NotEqual(t, profile.UUID, content.UUID)
	require.NotEqual(t, profile.Identifier, content.Identifier)
	require.Equal(t, []rule{{"Label", "com.kmodquery.record", "TEAMID0000"}}, content.Rules)
}

// newsyslog.conf(5): file, owner, mode, count, size, when, flags.
func TestTheLogOfTheServiceIsRotated(t *testing.T) {
	text, err := os.ReadFile("kmodquery.newsyslog.conf")
	require.NoError(t, err)
	var entries [][]string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			entries = append(entries, strings.Fields(line))
		}
	}
	require.Equal(t, [][]string{{"/var/log/kmodquery.log", "root:wheel", "600", "3", "1024", "*", "N"}}, entries)
}
