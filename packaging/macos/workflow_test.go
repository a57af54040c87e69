package macos

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

type step struct {
	Name, Uses, Run, If string
	With                map[string]string
}

func TestTheWorkflowHasOnlyKnownKeys(t *testing.T) {
	text, err := os.ReadFile("../../.github/workflows/macos.yml")
	require.NoError(t, err)
	var workflow struct {
		Name string
		On   struct {
			Manual any `yaml:"workflow_dispatch"`
			Push   struct{ Branches, Paths []string }
		}
		Permissions map[string]string
		Jobs        map[string]struct {
			Strategy struct {
				FailFast *bool `yaml:"fail-fast"`
				Matrix   map[string][]string
			}
			RunsOn  string `yaml:"runs-on"`
			Minutes int    `yaml:"timeout-minutes"`
			Steps   []step
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&workflow))
	job := workflow.Jobs["mac"]
	require.Equal(t, "${{ matrix.image }}", job.RunsOn)
	require.Subset(t, job.Strategy.Matrix["image"], []string{"macos-26", "macos-26-intel"}, "Apple silicon and Intel")
	require.False(t, *job.Strategy.FailFast)
	require.Equal(t, map[string]string{"contents": "read"}, workflow.Permissions)
	for _, s := range job.Steps {
		require.NotEqual(t, s.Uses == "", s.Run == "", "a step has an action or a command")
	}
	require.Equal(t, "make mac-capture", job.Steps[3].Run)
	require.Equal(t, "build/mac-capture", job.Steps[4].With["path"])
}
