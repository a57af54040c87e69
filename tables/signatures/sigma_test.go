package signatures

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/kmodquery/kmodquery"
)

// requireSigma requires that the Sigma rule of each signature accepts an event if and only if
// the signature does.
func requireSigma(t *testing.T, e *kmodquery.Event) {
	t.Helper()
	row := map[string]string{"reports_load": "0", "unprivileged": "0"}
	for _, column := range kmodquery.EventColumns() {
		if value := column.Value(e); value != nil {
			row[column.Name] = fmt.Sprint(value)
		}
	}
	if e.IsLoadReport() {
		row["reports_load"] = "1"
	}
	if e.IsUnprivileged() {
		row["unprivileged"] = "1"
	}
	for _, s := range All() {
		_, want := s.Match(e)
		require.Equal(t, want, sigmaAccepts(t, s.Sigma, row), "%s: %v", s.ID, row)
	}
}

// sigmaAccepts evaluates a detection as the specification of Sigma says: fields of a selection
// are and-ed, values or-ed, and text is compared without regard to case.
func sigmaAccepts(t *testing.T, s kmodquery.Sigma, row map[string]string) bool {
	t.Helper()
	var selections map[string]map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(s.Selections), &selections))
	c := sigmaCondition{tokens: regexp.MustCompile(`\w+|[()]`).FindAllString(s.Condition, -1), of: map[string]bool{}}
	for name, fields := range selections {
		c.of[name] = true
		for field, values := range fields {
			list, ok := values.([]any)
			if !ok {
				list = []any{values}
			}
			matches := false
			for _, value := range list {
				matches = matches || sigmaMatches(t, field, fmt.Sprint(value), row)
			}
			c.of[name] = c.of[name] && matches
		}
	}
	got := c.or(t)
	require.Empty(t, c.tokens, s.Condition)
	return got
}

func sigmaMatches(t *testing.T, field, value string, row map[string]string) bool {
	t.Helper()
	name, modifier, _ := strings.Cut(field, "|")
	_, isColumn := kmodquery.EventColumn(name)
	require.True(t, isColumn || name == "unprivileged", name)
	got, isKnown := row[name]
	switch modifier {
	case "":
		require.NotContains(t, value, "*")
		return isKnown && strings.EqualFold(got, value)
	case "startswith":
		return isKnown && strings.HasPrefix(strings.ToLower(got), strings.ToLower(value))
	case "re":
		return isKnown && regexp.MustCompile(value).MatchString(got)
	}
	t.Fatalf("modifier %s", modifier)
	return false
}

// A sigmaCondition is what is left of a condition, and what the selections say.
type sigmaCondition struct {
	tokens []string
	of     map[string]bool
}

func (c *sigmaCondition) take(token string) bool {
	if len(c.tokens) > 0 && c.tokens[0] == token {
		c.tokens = c.tokens[1:]
		return true
	}
	return false
}

func (c *sigmaCondition) or(t *testing.T) bool {
	result := c.and(t)
	for c.take("or") {
		right := c.and(t)
		result = result || right
	}
	return result
}

func (c *sigmaCondition) and(t *testing.T) bool {
	result := c.not(t)
	for c.take("and") {
		right := c.not(t)
		result = result && right
	}
	return result
}

func (c *sigmaCondition) not(t *testing.T) bool {
	switch {
	case c.take("not"):
		return !c.not(t)
	case c.take("("):
		result := c.or(t)
		require.True(t, c.take(")"))
		return result
	}
	require.NotEmpty(t, c.tokens)
	result, ok := c.of[c.tokens[0]]
	require.True(t, ok, "no selection %s", c.tokens[0])
	c.tokens = c.tokens[1:]
	return result
}
