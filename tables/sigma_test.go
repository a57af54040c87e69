package tables

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/signatures"
)

// sigmaNamespace is the namespace of the ids of Sigma rules, which are made of the ids of
// signatures and so stay the same.
var sigmaNamespace = uuid.MustParse("1c2ff7a5-0d0e-4b5c-9d27-5f0f7a2f6f0e")

// sigmaLevels are Sigma's names of the severities.
var sigmaLevels = []string{"informational", "low", "medium", "high", "critical"}

// A sigmaRule has the fields of a Sigma rule in the order of the specification.
type sigmaRule struct {
	Title          string
	ID             string
	Status         string
	Description    string
	License        string
	References     []string
	Author         string
	Tags           []string
	Logsource      map[string]string
	Detection      yaml.Node
	Fields         []string `yaml:",omitempty"`
	Falsepositives []string
	Level          string
}

// sigma returns the Sigma rule of a signature.
func sigma(t *testing.T, s kmodquery.Signature) string {
	t.Helper()
	rule := sigmaRule{
		Title: s.Name, ID: uuid.NewSHA1(sigmaNamespace, []byte(s.ID)).String(), Status: "experimental", Description: s.Description, License: "Apache-2.0",
		References: []string{"https://attack.mitre.org/techniques/" + strings.ReplaceAll(s.ExternalID, ".", "/") + "/"}, Author: "kmodquery, signature " + s.ID + ", version " + s.Version,
		Tags: []string{"attack." + s.Category, "attack." + strings.ToLower(s.ExternalID)},
		Logsource: map[string]string{
			"product": "kmodquery", "service": "kernel_module_events",
			"definition": "Rows of kmodquery's table kernel_module_events, with at least the fields of the detection and unprivileged. A column that is NULL is missing or an empty text.",
		},
		Fields: s.Facts, Falsepositives: []string{s.FalsePositives}, Level: sigmaLevels[s.Severity],
	}
	var detection yaml.Node
	require.NoError(t, yaml.Unmarshal([]byte(s.Sigma.Selections+"condition: "+s.Sigma.Condition+"\n"), &detection), s.ID)
	rule.Detection = *detection.Content[0]
	var b bytes.Buffer
	b.WriteString("# Written by \"go test ./tables -golden\" from the signature " + s.ID + ".\n")
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	require.NoError(t, encoder.Encode(rule))
	return b.String()
}

func sigmaFile(s kmodquery.Signature) string {
	return strings.ToLower(strings.ReplaceAll(s.ID, "-", "_")) + ".yml"
}

func TestSigmaRulesAreAsPublished(t *testing.T) {
	folder := filepath.Join("..", "docs", "sigma")
	files := map[string]bool{}
	for _, s := range signatures.All() {
		files[sigmaFile(s)] = true
		requireFile(t, filepath.Join(folder, sigmaFile(s)), sigma(t, s))
	}
	published, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, file := range published {
		require.Contains(t, files, file.Name(), "remove the file: no signature has it")
	}
}

// The fields have the forms that the specification of Sigma asks for.
func TestSigmaRulesAreValid(t *testing.T) {
	ids := map[string]bool{}
	for _, s := range signatures.All() {
		var rule map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(sigma(t, s)), &rule))
		for _, field := range []string{"title", "id", "status", "description", "logsource", "detection", "level", "tags"} {
			require.NotEmpty(t, rule[field], "%s: %s", s.ID, field)
		}
		require.LessOrEqual(t, len(rule["title"].(string)), 256)
		id, err := uuid.Parse(rule["id"].(string))
		require.NoError(t, err)
		require.EqualValues(t, 5, id.Version())
		require.False(t, ids[id.String()], "an id stands twice")
		ids[id.String()] = true
		require.Contains(t, []string{"informational", "low", "medium", "high", "critical"}, rule["level"])
		technique := 0
		for _, tag := range rule["tags"].([]any) {
			require.Regexp(t, `^attack\.[a-z0-9.-]+$`, tag)
			if regexp.MustCompile(`^attack\.t[0-9]{4}(\.[0-9]{3})?$`).MatchString(tag.(string)) {
				technique++
			}
		}
		require.Equal(t, 1, technique)
		detection := rule["detection"].(map[string]any)
		require.IsType(t, "", detection["condition"])
		require.Greater(t, len(detection), 1)
	}
}
