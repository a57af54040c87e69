package signatures

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestEverySignatureIsComplete(t *testing.T) {
	var ids []string
	for _, s := range All() {
		ids = append(ids, s.ID)
		for _, value := range []string{
			s.ID, s.Version, s.Name, s.EventName, s.Description, s.Category, s.Technique, s.AttackID, s.ExternalID, s.Condition, s.FalsePositives, s.Silence, s.Sigma.Selections, s.Sigma.Condition,
		} {
			require.NotEmpty(t, value, s.ID)
		}
		require.NotEmpty(t, s.Events, s.ID)
		for _, name := range s.Columns {
			_, ok := kmodquery.EventColumn(name)
			require.True(t, ok, "%s reads %s, which no event has", s.ID, name)
		}
	}
	require.True(t, slices.IsSorted(ids))
	require.Len(t, slices.Compact(slices.Clone(ids)), len(ids), "an ID stands twice")
}
