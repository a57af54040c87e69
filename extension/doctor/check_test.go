package doctor

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRunKeepsTheOrderAndBoundsEachCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		slow := func(context.Context) []Result {
			time.Sleep(time.Second)
			return one(OK, "slow", "")
		}
		begin := time.Now()
		results := Run(t.Context(), 2*time.Second, []Check{
			{"slow", slow},
			{"hangs", func(context.Context) []Result { <-hang; return nil }},
			{"panics", func(context.Context) []Result { panic("no") }},
			{"several", func(context.Context) []Result { return []Result{{"", OK, "a", ""}, {"other", Note, "b", ""}} }},
		})
		require.Equal(t, 2*time.Second, time.Since(begin))
		require.Equal(t, []Result{
			{"slow", OK, "slow", ""},
			{"hangs", Unknown, "the check did not end within 2s", "look for a file system or a process that does not answer"},
			{"panics", Unknown, "the check failed: no", "report this as a bug"},
			{"several", OK, "a", ""},
			{"other", Note, "b", ""},
		}, results)
	})
}

func TestExitCodeIsOfTheWorstStatus(t *testing.T) {
	for _, test := range []struct {
		has  []Status
		code int
	}{
		{nil, 0},
		{[]Status{OK, Note}, 0},
		{[]Status{Unknown, OK}, 3},
		{[]Status{Unknown, Warning}, 1},
		{[]Status{Warning, Critical, Unknown}, 2},
	} {
		var results []Result
		for _, status := range test.has {
			results = append(results, Result{Status: status})
		}
		require.Equal(t, test.code, Worst(results).ExitCode(), test.has)
	}
}

func TestEachResultIsOneLine(t *testing.T) {
	var out strings.Builder
	results := []Result{{"store", Warning, "a\nb\x1b[31m\u202ec\x00", "do <that>"}, {"kernel", OK, "fine", ""}}
	require.NoError(t, Write(&out, results))
	require.Equal(t, `warning   store   a b\x1b[31m\xe2\x80\xaec\x00; do <that>
ok        kernel  fine
0 critical, 1 warning, 0 unknown, 0 note, 1 ok
`, out.String())

	out.Reset()
	require.NoError(t, WriteJSON(&out, results))
	var document struct {
		Status  Status
		Results []Result
	}
	require.NoError(t, json.Unmarshal([]byte(out.String()), &document))
	require.Equal(t, Warning, document.Status)
	require.Equal(t, Result{"store", Warning, `a b\x1b[31m\xe2\x80\xaec\x00`, "do <that>"}, document.Results[0])

	out.Reset()
	require.NoError(t, WriteJSON(&out, nil))
	require.Contains(t, out.String(), `"results": []`)
}
