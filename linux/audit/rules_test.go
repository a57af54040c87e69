//go:build linux

package audit

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// builtAuditRules builds rules from their texts.
func builtAuditRules(t testing.TB, texts ...string) auditRules {
	t.Helper()
	var rules auditRules
	for _, text := range texts {
		built, err := buildAuditRule(text)
		require.NoError(t, err)
		rules = append(rules, built)
	}
	return rules
}

const auditOwnRule = "-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -k kmodquery"

func TestAuditRulesThatCover(t *testing.T) {
	own := builtAuditRules(t, auditOwnRule)[0]
	for _, test := range []struct {
		name  string
		rules []string
		want  bool
	}{
		{"none", nil, false},
		{"its own", []string{auditOwnRule}, true},
		{"another key", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -k modules"}, true},
		{"no key", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module"}, true},
		{"more calls", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module,kill"}, true},
		{"all calls", []string{"-a always,exit -F arch=b64 -S all"}, true},
		{"fewer calls", []string{"-a always,exit -F arch=b64 -S init_module,delete_module"}, false},
		{"the other architecture", []string{"-a always,exit -F arch=b32 -S init_module,finit_module,delete_module"}, false},
		{"users who logged in", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -F auid!=unset"}, false},
		{"successes", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -F success=1"}, false},
		{"a watch", []string{"-w /sbin/insmod -p x"}, false},
		{"never, and then its own", []string{"-a never,exit -F arch=b64 -S all", auditOwnRule}, false},
		{"never, of others", []string{"-a never,exit -F arch=b64 -S kill", auditOwnRule}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules := builtAuditRules(t, test.rules...)
			require.Equal(t, test.want, rules.covers(own))
			require.Empty(t, rules.hiding())
		})
	}
}

func TestAuditRulesThatHide(t *testing.T) {
	for text, want := range map[string]string{
		"-a never,task":                         "-a never,task",
		"-a never,task -F uid=1000":             "",
		"-a always,exclude -F msgtype=SYSCALL":  "-a always,exclude -F msgtype=SYSCALL",
		"-a always,exclude -F msgtype=CWD":      "",
		"-a always,exclude -F msgtype!=SYSCALL": "",
		auditOwnRule:                            "",
	} {
		require.Equal(t, want, builtAuditRules(t, text).hiding(), text)
	}
}

func TestSameAuditRules(t *testing.T) {
	own := builtAuditRules(t, auditOwnRule, "-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -k kmodquerz")
	require.True(t, own.has(own[0]))
	require.False(t, own[1:].has(own[0]))
	require.Empty(t, own[:1].without(own[0]))
	require.True(t, auditRules{append(own[0][:len(own[0]):len(own[0])], 0, 0, 0, 0)}.has(own[0]), "what is behind a rule is no part of it")
	for size := range len(own[0]) - len("\x00\x00\x00") { // it is padded
		require.False(t, isSameAuditRule(own[0][:size], own[0]), size)
	}
}

func FuzzAuditRule(f *testing.F) {
	for _, rule := range builtAuditRules(f, auditOwnRule, "-a never,task", "-w /etc/passwd -p wa -k x") {
		f.Add(rule)
	}
	own := builtAuditRules(f, auditOwnRule)[0]
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, texts, err := parseAuditRule(raw)
		if err != nil {
			return
		}
		require.Len(t, texts, int(r.BufLen))
		rules := auditRules{raw}
		require.True(t, rules.has(raw))
		_ = rules.covers(own)
		_ = rules.hiding()
	})
}
