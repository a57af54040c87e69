package tables

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/rules"
	"github.com/kmodquery/kmodquery/tables/signatures"
)

// yamlBlocks returns the blocks of YAML of docs/rules.md.
func yamlBlocks(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../docs/rules.md")
	require.NoError(t, err)
	var blocks []string
	for _, match := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// The rules of the documentation are valid, and each accepts one load here.
func TestTheExamplesOfRulesWork(t *testing.T) {
	c, _ := withRules(t, testConfig(t), map[string]string{"a.yaml": yamlBlocks(t)[0]})
	require.Empty(t, c.Rules().Status.Reason)
	with := func(id string, change func(*kmodquery.Event)) {
		events := loadOf(id, "good", 0)
		for i := range events {
			events[i].AUID, events[i].Path = new(int64(4294967295)), "/usr/lib/modules/6.12/kernel/good.ko"
			change(&events[i])
		}
		store(t, c, events...)
	}
	with("1", func(*kmodquery.Event) {})
	with("2", func(e *kmodquery.Event) { e.Path = "/usr/lib/modules/6.12/extra/good.ko" })
	with("3", func(e *kmodquery.Event) { e.AUID = new(int64(1000)) })
	with("4", func(e *kmodquery.Event) { e.Name = "nlmon" })
	found := column(rowsOf(t, c, loadsTable, "{}"), "findings")
	slices.Reverse(found)
	require.Equal(t, []string{"TRC-1017", "ACME-1,TRC-1017", "ACME-2,TRC-1017", "ACME-3,TRC-1017"}, found)
}

// The expectations of the documentation are valid.
func TestTheExamplesOfExpectationsWork(t *testing.T) {
	blocks := yamlBlocks(t)
	require.Len(t, blocks, 2)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.yaml"), blocks[1])
	c := testConfig(t)
	c.Signatures = signatures.All()
	c.Rules = rules.Open(rules.Options{Expectations: dir}).RuleSet
	require.Empty(t, c.Rules().Status.Reason)
	for i, change := range []func(*kmodquery.Event){
		func(e *kmodquery.Event) {
			e.SignatureStatus, e.Signer = kmodquery.SignatureValid, "Debian Secure Boot CA"
		},
		func(e *kmodquery.Event) {
			e.Name, e.SHA256 = "zfs", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
		},
		func(e *kmodquery.Event) { e.Name, e.Path = "acme_nic", "/home/build/7/acme-nic.ko" },
		func(e *kmodquery.Event) { e.Signer = "Debian Secure Boot CA" },
	} {
		events := loadOf(strconv.Itoa(i), "other", 0)
		for j := range events {
			change(&events[j])
		}
		store(t, c, events...)
	}
	found := map[string][]string{}
	for _, row := range rowsOf(t, c, findingsTable, "{}") {
		if row["severity"] == "0" {
			found[row["load_id"]] = append(found[row["load_id"]], row["signature_id"])
		}
	}
	require.Equal(t, map[string][]string{"0": {"KMQ-1002", "TRC-1017"}, "1": {"KMQ-1001", "KMQ-1002", "TRC-1017"}, "2": {"KMQ-1002"}}, found)
}
