package sqlite

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// loadWith returns the event of an attempt to load the module m.
func loadWith(loadID, hash, signer, path string, changes ...func(*kmodquery.Event)) kmodquery.Event {
	e := kmodquery.Event{LoadID: loadID, Name: "m", SHA256: "z" + hash, ImageSHA256: hash, Signer: signer, Path: path, BootID: "b"}
	for _, change := range changes {
		change(&e)
	}
	return e
}

func lacking(columns ...string) func(*kmodquery.Event) {
	return func(e *kmodquery.Event) { e.Missing.Add(columns...) }
}

func TestChangedIsWhatNoEarlierAttemptHad(t *testing.T) {
	for name, test := range map[string]struct {
		events []kmodquery.Event
		want   []string
	}{
		"the first, and then the same": {
			[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("1", "x", "s", "/m.ko"), loadWith("2", "x", "s", "/m.ko")}, []string{"", "", "none"}},
		"other bytes": {
			[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "y", "s", "/m.ko"), loadWith("2", "y", "s", "/m.ko"), loadWith("3", "y", "s", "/m.ko"), loadWith("4", "x", "s", "/m.ko")},
			[]string{"", "hash", "hash", "none", "none"}},
		"a namesake": {
			[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "y", "", "/tmp/m.ko")}, []string{"", "hash,signer,path"}},
		"an earlier attempt goes on": {
			[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "y", "s", "/m.ko"), loadWith("1", "x", "s", "/m.ko")}, []string{"", "hash", ""}},
		"another name":            {[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "y", "s", "/n.ko", func(e *kmodquery.Event) { e.Name = "M" })}, []string{"", ""}},
		"a file of the initramfs": {[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "x", "s", "/m.ko.xz")}, []string{"", "none"}},
		"from memory":             {[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "x", "s", "")}, []string{"", "none"}},
		"a part of the path":      {[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "x", "s", "m.ko", lacking("path"))}, []string{"", "none"}},
		"a signer unknown":        {[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "y", "", "/m.ko", lacking("signer"))}, []string{"", "hash"}},
		"a boot before":           {[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "y", "s", "/m.ko", func(e *kmodquery.Event) { e.BootID = "a" })}, []string{"", ""}},
		"only the hash of the compressed file": {
			[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "", "s", "/m.ko", lacking("image_sha256"))}, []string{"", ""}},
		"the row of a load keeps what its events have": {
			[]kmodquery.Event{loadWith("1", "x", "s", "/m.ko"), loadWith("2", "y", "s", "/m.ko", func(e *kmodquery.Event) { e.EventName, e.Changed = "load_closed", "path" })}, []string{"", "path"}},
		"an extension": {
			[]kmodquery.Event{{LoadID: "1", Name: "com.a", CDHash: "x", TeamID: "T"}, {LoadID: "2", Name: "com.a", CDHash: "y", TeamID: "U"}}, []string{"", "hash,signer"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var got []string
			for _, event := range test.events { // over restarts
				s, err := Open(context.Background(), dir, Options{Kernel: "6.1", BootID: "b"})
				require.NoError(t, err)
				batch := []kmodquery.Event{event}
				require.NoError(t, appendEvents(context.Background(), s, batch))
				require.NoError(t, s.Close())
				got = append(got, batch[0].Changed)
			}
			require.Equal(t, test.want, got)
			s := openStore(t, Options{Kernel: "6.1", BootID: "b"})
			events := append([]kmodquery.Event{}, test.events...)
			require.NoError(t, appendEvents(context.Background(), s, events))
			for i := range events {
				require.Equal(t, test.want[i], events[i].Changed, "in one batch")
			}
		})
	}
}

func TestChangedIsWithinOneKernel(t *testing.T) {
	dir := t.TempDir()
	for i, kernel := range []string{"6.1", "6.2", "", "6.1"} {
		s, err := Open(context.Background(), dir, Options{Kernel: kernel, BootID: "b"})
		require.NoError(t, err)
		batch := []kmodquery.Event{loadWith(string(rune('1'+i)), string(rune('a'+i)), "s", "/m.ko")}
		require.NoError(t, appendEvents(context.Background(), s, batch))
		require.NoError(t, s.Close())
		require.Equal(t, []string{"", "", "", "hash"}[i], batch[0].Changed)
	}
}

func TestChangedIsMissingIfItCannotBeKnown(t *testing.T) {
	s := openStore(t, Options{Kernel: "6.1"})
	events := []kmodquery.Event{
		{LoadID: "1", Name: "m", Missing: "sha256"}, {LoadID: "1", SHA256: "x", ImageSHA256: "x", Missing: "name"}, {Name: "m", SHA256: "x", ImageSHA256: "x", Missing: "load_id"}, {LoadID: "1", Name: "m"},
	}
	require.NoError(t, appendEvents(context.Background(), s, events))
	var missing []string
	for _, e := range events {
		missing = append(missing, e.Missing.String())
	}
	require.Equal(t, []string{"sha256,first_seen,changed", "name,first_seen,changed", "load_id,changed", ""}, missing)
}

func TestTheOldestKnownValuesAreForgotten(t *testing.T) {
	s := openStore(t, Options{Kernel: "6.1"})
	for _, id := range []int{1, 2, maxKnown + 1} {
		_, err := s.writer.Exec("INSERT INTO known VALUES (?, ?, 'k', 'hash', 'x', 'l')", id, id)
		require.NoError(t, err)
	}
	require.NoError(t, s.Expire(context.Background()))
	var least int64
	require.NoError(t, s.readers.QueryRow("SELECT min(id) FROM known").Scan(&least))
	require.EqualValues(t, 2, least)
}
