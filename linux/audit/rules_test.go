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
		{"never, of one call", []string{"-a never,exit -F arch=b64 -S finit_module", ownRule}, false},
		{"never, under a constraint that is always true", []string{"-a never,exit -F arch=b64 -S all -F uid>=0", ownRule}, false},
		{"never, of all architectures", []string{"-a never,exit -S all -F pid!=0", ownRule}, false},
		{"never, of watched files", []string{"-a never,exit -F dir=/tmp -F perm=r", ownRule}, false},
		{"never, of the other architecture", []string{"-a never,exit -F arch=b32 -S all", ownRule}, true},
		{"never, after its own", []string{ownRule, "-a never,exit -F arch=b64 -S all"}, true},
		{"never, of others", []string{"-a never,exit -F arch=b64 -S kill", ownRule}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules := builtRules(t, test.rules...)
			require.Equal(t, test.want, rules.covers(own))
			hiding, _ := rules.hiding()
			require.Empty(t, hiding)
		})
	}
}

func TestRulesThatHideSystemCalls(t *testing.T) {
	const none, some, all = "", "some", "all"
	for text, want := range map[string]string{
		"-a never,task":                                  all,
		"-a never,task -F uid=1000":                      some,
		"-a always,exclude -F msgtype=SYSCALL":           all,
		"-a always,exclude -F msgtype>=1300":             all,
		"-a always,exclude -F msgtype<1300":              none,
		"-a always,exclude -F msgtype>1300":              none,
		"-a always,exclude -F msgtype<=1299":             none,
		"-a always,exclude -F msgtype>=1301":             none,
		"-a always,exclude -F msgtype=SYSCALL -F uid>=0": some,
		"-a always,exclude -F msgtype=CWD -F uid>=0":     none,
		"-a always,exclude -F uid=1000":                  some,
		"-a always,exclude -F msgtype=CWD":               none,
		"-a always,exclude -F msgtype!=SYSCALL":          none,
		"-a always,exclude -F msgtype!=CWD":              all,
		ownRule:                                          none,
	} {
		hiding, isAll := builtRules(t, text).hiding()
		require.Equal(t, want == all, isAll, text)
		require.Equal(t, want != none, hiding != "", text)
	}
	hiding, isAll := builtRules(t, "-a never,task", "-a never,task -F uid=1000").hiding()
	require.Equal(t, "-a never,task", hiding)
	require.True(t, isAll, "the worst one is named")
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
		_, _ = rules.hiding()
	})
}
