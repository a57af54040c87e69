package sqlite

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// Every later version must accept the checksums on disk.
func TestChecksumsNeverChange(t *testing.T) {
	columns := kmodquery.EventColumns()
	sums := newChecksummer(columns, nil)
	event := kmodquery.Event{
		EID: 7, Time: 1, TimeNanos: 2, Name: "dummy", Path: "/lib/dummy.ko", Pid: new(int64(5)), Params: new(""), Missing: "params",
	}
	values := make([]any, len(columns))
	for i, column := range columns {
		values[i] = column.Value(&event)
	}
	text, _ := sums.of(values, 0)
	require.Equal(t, "b50ac082109aabd074188725c24e6bfdbe62cd434417cdba9b2d595bc1f6a73bd805a217", fmt.Sprintf("%x", text))
	require.EqualValues(t, 179382838, positionChecksum("kmsg", "1"))
}

// A checksum covers every value of every column, whichever columns are read.
func TestEveryChangeOfARowIsDetected(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{full(), {Name: "other"}}))
	for _, column := range kmodquery.EventColumns() {
		values := []string{"NULL", "'changed'"}
		if column.Number {
			values = []string{"NULL", "4711"}
		}
		switch column.Name {
		case "eid":
			values = []string{"4711"}
		case "time", "time_nanos":
			values = values[1:]
		}
		for _, value := range values {
			t.Run(column.Name+" is "+value, func(t *testing.T) {
				tx, err := s.writer.Begin()
				require.NoError(t, err)
				_, err = tx.Exec("CREATE TEMP TABLE kept AS SELECT * FROM events WHERE name IS NOT 'other'")
				require.NoError(t, err)
				_, err = tx.Exec("UPDATE events SET " + column.Name + " = " + value + " WHERE name IS NOT 'other'")
				require.NoError(t, err)
				require.NoError(t, tx.Commit())
				for _, columns := range [][]string{nil, {column.Name}} {
					before := s.damaged.Load()
					require.Equal(t, []int64{2}, eids(read(t, s, kmodquery.Filter{Columns: columns})))
					require.Equal(t, before+1, s.damaged.Load())
				}
				_, err = s.writer.Exec("DELETE FROM events WHERE name IS NOT 'other'; INSERT INTO events SELECT * FROM kept; DROP TABLE kept")
				require.NoError(t, err)
				require.Equal(t, []int64{2, 1}, eids(read(t, s, kmodquery.Filter{})))
			})
		}
	}
}

func TestRowsWithoutChecksumsAreReadUpToTheMigration(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{{Name: "a"}, {Name: "b"}}))
	for _, sums := range []string{"NULL", "x''", "x'00'", "zeroblob(36)"} {
		_, err := s.writer.Exec("UPDATE events SET sums = " + sums + " WHERE eid = 2")
		require.NoError(t, err)
		require.Equal(t, []int64{1}, eids(read(t, s, kmodquery.Filter{})), sums)
		require.Equal(t, []int64{1}, eids(read(t, s, kmodquery.Filter{Columns: []string{}})), sums)
	}
	status, err := s.Status(context.Background())
	require.NoError(t, err)
	require.EqualValues(t, 8, status.Damaged)
	require.Equal(t, "8 rows do not match their checksums and are not shown: the disk or the memory failed, or they were changed by hand", status.Trouble)
}

func TestAChangedPositionIsIgnored(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, s.Append(context.Background(), []kmodquery.Delivery{{Event: kmodquery.Event{Source: "kmsg"}, Position: "5"}}))
	_, err := s.writer.Exec("UPDATE positions SET position = '6'")
	require.NoError(t, err)
	position, err := s.Position(context.Background(), "kmsg")
	require.NoError(t, err)
	require.Empty(t, position)
	require.EqualValues(t, 1, s.damaged.Load())
}
