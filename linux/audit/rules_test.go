//go:build linux

package audit

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// builtRules builds rules from their texts.
func builtRules(t testing.TB, texts ...string) ruleList {
	t.Helper()
	var rules ruleList
	for _, text := range texts {
		built, err := buildRule(text)
		require.NoError(t, err)
		rules = append(rules, built)
	}
	return rules
}

const ownRule = "-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -k kmodquery"

func TestRulesThatCoverAllModuleCalls(t *testing.T) {
	own := builtRules(t, ownRule)[0]
	for _, test := range []struct {
		name  string
		rules []string
		want  bool
	}{
		{"none", nil, false},
		{"its own", []string{ownRule}, true},
		{"another key", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -k modules"}, true},
		{"no key", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module"}, true},
		{"more calls", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module,kill"}, true},
		{"all calls", []string{"-a always,exit -F arch=b64 -S all"}, true},
		{"fewer calls", []string{"-a always,exit -F arch=b64 -S init_module,delete_module"}, false},
		{"the other architecture", []string{"-a always,exit -F arch=b32 -S init_module,finit_module,delete_module"}, false},
		{"users who logged in", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -F auid!=unset"}, false},
		{"successes", []string{"-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -F success=1"}, false},
		{"a watch", []string{"-w /sbin/insmod -p x"}, false},
		{"never, and then its own", []string{"-a never,exit -F arch=b64 -S all", ownRule}, false},
		{"never, of others", []string{"-a never,exit -F arch=b64 -S kill", ownRule}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules := builtRules(t, test.rules...)
			require.Equal(t, test.want, rules.covers(own))
			require.Empty(t, rules.hiding())
		})
	}
}

func TestRulesThatHideSystemCalls(t *testing.T) {
	for text, want := range map[string]string{
		"-a never,task":                         "-a never,task",
		"-a never,task -F uid=1000":             "",
		"-a always,exclude -F msgtype=SYSCALL":  "-a always,exclude -F msgtype=SYSCALL",
		"-a always,exclude -F msgtype=CWD":      "",
		"-a always,exclude -F msgtype!=SYSCALL": "",
		ownRule:                                 "",
	} {
		require.Equal(t, want, builtRules(t, text).hiding(), text)
	}
}

func TestRulesAreComparedWithoutPadding(t *testing.T) {
	own := builtRules(t, ownRule, "-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -k kmodquerz")
	require.True(t, own.has(own[0]))
	require.False(t, own[1:].has(own[0]))
	require.Empty(t, own[:1].without(own[0]))
	require.True(t, ruleList{append(own[0][:len(own[0]):len(own[0])], 0, 0, 0, 0)}.has(own[0]), "bytes after a rule are no part of it")
	for size := range len(own[0]) - len("\x00\x00\x00") { // it is padded
		require.False(t, isSameRule(own[0][:size], own[0]), size)
	}
}

func FuzzRule(f *testing.F) {
	for _, rule := range builtRules(f, ownRule, "-a never,task", "-w /etc/passwd -p wa -k x") {
		f.Add(rule)
	}
	own := builtRules(f, ownRule)[0]
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, texts, err := parseRule(raw)
		if err != nil {
			return
		}
		require.Len(t, texts, int(r.BufLen))
		rules := ruleList{raw}
		require.True(t, rules.has(raw))
		_ = rules.covers(own)
		_ = rules.hiding()
	})
}
