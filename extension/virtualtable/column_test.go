package virtualtable

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUsedColumns(t *testing.T) {
	events := newEvents()
	db := open(t, events)
	tests := []struct {
		sql  string
		used []string
		mask uint64
	}{
		{"SELECT count(*) FROM events", []string{}, 0},
		{"SELECT name FROM events", []string{"name"}, 1 << 1},
		{"SELECT size FROM events WHERE time > 1", []string{"time", "size"}, 1<<0 | 1<<2},
		{"SELECT raw FROM events ORDER BY name", []string{"name", "raw"}, 1<<1 | 1<<6},
	}
	for _, test := range tests {
		query(t, db, test.sql)
		require.Len(t, events.contexts, 1, test.sql)
		require.Equal(t, test.used, events.contexts[0].ColsUsed, test.sql)
		require.Equal(t, test.mask, events.contexts[0].ColsUsedBitset, test.sql)
		events.contexts = nil
	}
}

func TestUsedColumnsFrom64thOn(t *testing.T) {
	wide := &recorder{name: "wide", rows: always()}
	for i := range 66 {
		wide.routes = append(wide.routes, route(fmt.Sprintf("c%02d", i), "TEXT", "1"))
	}
	db := open(t, wide)
	query(t, db, "SELECT c01, c64 FROM wide")
	require.Equal(t, []string{"c01", "c63", "c64", "c65"}, wide.contexts[0].ColsUsed)
	require.Equal(t, uint64(1<<63|1<<1), wide.contexts[0].ColsUsedBitset)

	query(t, db, "SELECT * FROM wide")
	require.Len(t, wide.contexts[1].ColsUsed, 66)
	require.Equal(t, uint64(math.MaxUint64), wide.contexts[1].ColsUsedBitset)
}

func TestHiddenColumns(t *testing.T) {
	db := open(t, newEvents())
	rows, err := db.QueryContext(t.Context(), "SELECT * FROM events")
	require.NoError(t, err)
	defer rows.Close()
	columns, err := rows.Columns()
	require.NoError(t, err)
	require.Equal(t, []string{"time", "name", "size", "kind", "signer", "score", "plain"}, columns)
	require.Equal(t, [][]any{{"r"}, {"s"}}, query(t, db, "SELECT raw FROM events"))
}

func TestDeclaration(t *testing.T) {
	tests := []struct {
		columns []column
		want    string
	}{
		{[]column{{"a", typeText, 0}, {"b", typeUnsignedBigint, 16}}, `CREATE TABLE "t"("a" TEXT, "b" UNSIGNED BIGINT HIDDEN)`},
		{[]column{{"a", typeText, 1}, {"b", typeDouble, 4}, {"c", typeBlob, 2}}, `CREATE TABLE "t"("a" TEXT, "b" DOUBLE, "c" BLOB, PRIMARY KEY ("a", "b"))`},
		{[]column{{"a", typeText, 4}, {`b"`, typeBigint, 0}}, `CREATE TABLE "t"("a" TEXT, "b""" BIGINT, PRIMARY KEY ("a", "b"""))`},
	}
	for _, test := range tests {
		require.Equal(t, test.want, declaration("t", test.columns))
	}
}

func TestRequiredColumn(t *testing.T) {
	file := &recorder{
		name:   "file",
		routes: []map[string]string{route("path", "TEXT", "2"), route("size", "BIGINT", "8")},
		rows:   always(map[string]string{"path": "/a", "size": "7"}),
	}
	db := open(t, file)
	_, err := db.ExecContext(t.Context(), "SELECT size FROM file")
	require.ErrorContains(t, err, "table file was queried without a required column in the WHERE clause")
	require.Empty(t, file.asked())
	require.Equal(t, [][]any{{int64(7)}}, query(t, db, "SELECT size FROM file WHERE path = '/a'"))
	require.Equal(t, []map[string][]constraint{{"path": {{2, "/a"}}}}, file.asked())
}
