//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// imageInfo returns the columns of every event of a load about the bytes that the
// kernel got and about the module in them. A valid signature is Debian's.
func imageInfo(t *testing.T, handed, image []byte, status string) map[string]string {
	t.Helper()
	row := map[string]string{
		"sha256": sum(handed), "image_sha256": sum(image), "hash_source": "kernel",
		"signature_status": status,
	}
	if status == "valid" {
		sign(t, row, image)
	}
	if _, err := elf.NewFile(bytes.NewReader(image)); err != nil {
		return row // it has no .modinfo
	}
	info := modinfo(t, image)
	for _, column := range []string{"vermagic", "license", "version", "srcversion"} {
		if info[column] != "" {
			row[column] = info[column]
		}
	}
	row["intree"] = map[bool]string{true: "1", false: "0"}[info["intree"] == "Y"]
	return row
}

// sign adds the signer of the image, as kmod's modinfo prints it.
func sign(t *testing.T, row map[string]string, image []byte) {
	t.Helper()
	for column, field := range map[string]string{
		"signer": "signer", "signature_key_id": "sig_key", "signature_hash": "sig_hashalgo",
	} {
		row[column] = modinfoField(t, image, field)
		require.NotEmpty(t, row[column], field)
	}
}

func sum(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}

// firstSeen returns the value of first_seen for the next load of these bytes.
func firstSeen(t *testing.T, name string, handed []byte) string {
	t.Helper()
	rows := query(t, "SELECT count(*) AS n FROM kernel_module_events WHERE name = '%s' AND sha256 = '%s'", name, sum(handed))
	if rows[0]["n"] == "0" {
		return "1"
	}
	return "0"
}

// requireColumns compares some columns of a row.
func requireColumns(t *testing.T, want, row map[string]string) {
	t.Helper()
	got := map[string]string{}
	for name := range want {
		if value, ok := row[name]; ok {
			got[name] = value
		}
	}
	require.Equal(t, want, got, "%s", row["event_name"])
}

// TestGuestHashesEveryImage loads a module twice that is new to the host: in every way
// in the larger suites, and by file and from memory in make test.
// TestGuestEveryColumnOfEveryWayToLoad compares the same columns in every way.
func TestGuestHashesEveryImage(t *testing.T) {
	guest.Only(t)
	require.GreaterOrEqual(t, len(unseen), len(attempts))
	for i, a := range attempts {
		if !suite.All() && a.name != "a file" && a.name != "memory" {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			loadTwice(t, a, unseen[i])
		})
	}
	for _, a := range attempts {
		if a.name != "a compressed file" && a.name != "memory" && (a.name != "a file on ext4" || !suite.All()) {
			continue // they differ only in the location of the bytes
		}
		t.Run("a large module from "+a.name, func(t *testing.T) {
			loadTwice(t, a, large)
		})
	}
}

// unseen are modules that depend on no other and that no other test loads.
var unseen = []string{
	"tcp_bic", "tcp_cdg", "tcp_dctcp", "tcp_highspeed", "tcp_htcp", "tcp_hybla",
	"tcp_lp", "tcp_scalable", "tcp_vegas", "tcp_veno", "tcp_westwood",
}

// large has more than a megabyte on most kernels, so its image arrives in many chunks.
const large = "sunrpc"

func loadTwice(t *testing.T, a attempt, name string) {
	image := image(t, name)
	handed := a.prepare(t, name)
	want := imageInfo(t, handed.bytes, image, "valid")
	want["name"], want["origin"], want["count"] = name, a.origin, "1"
	want["first_seen"] = firstSeen(t, name, handed.bytes)
	if name != large {
		require.Equal(t, "1", want["first_seen"])
	}
	for i := range 2 {
		before := latest(t)
		require.NoError(t, handed.load(""))
		require.NoError(t, guest.Unload(name))
		rows := query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND sha256 != '' ORDER BY eid", before)
		require.Equal(t, a.events, column(rows, "event_name"))
		for _, row := range rows {
			requireColumns(t, want, row)
			require.Empty(t, row["missing"])
			if name != large {
				require.Equal(t, []string{"", "none"}[i], row["changed"])
			}
		}
		want["first_seen"] = "0"
	}
}

// TestGuestHashesAHugeImage loads an image of many megabytes, which is a module
// followed by zeros.
func TestGuestHashesAHugeImage(t *testing.T) {
	guest.Only(t)
	huge := make([]byte, 8<<20)
	copy(huge, image(t, "dummy"))
	digest := sum(huge)
	for _, a := range []attempt{
		{origin: "file", events: byFile, prepare: func(t *testing.T, _ string) *handed {
			return handFile(t, huge, "/run", "huge.ko", "tmpfs")
		}},
		{origin: "memory", events: byMemory, prepare: func(*testing.T, string) *handed {
			return &handed{bytes: huge}
		}},
	} {
		t.Run(a.origin, func(t *testing.T) {
			handed := a.prepare(t, "")
			var rows []map[string]string
			// The recorder gives up an image that it cannot read within five seconds,
			// which a guest that gets little of its host's processors may exceed.
			require.Eventually(t, func() bool {
				before := latest(t)
				require.NoError(t, handed.load(""))
				require.NoError(t, guest.Unload("dummy"))
				rows = query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND event_name NOT IN ('module_free', 'delete_module') ORDER BY eid", before)
				return len(rows) > 0 && rows[0]["sha256"] != ""
			}, 2*time.Minute, time.Millisecond, "%v", &rows)
			require.Equal(t, a.events, column(rows, "event_name"))
			for _, row := range rows {
				requireColumns(t, map[string]string{
					"sha256": digest, "image_sha256": digest, "hash_source": "kernel",
					"signature_status": "unsigned", "name": "dummy",
				}, row)
				require.Empty(t, row["missing"])
			}
		})
	}
}

// TestGuestHashesImagesOfEverySize passes the kernel bytes that are not a module, in
// sizes around every limit of the records of an image.
func TestGuestHashesImagesOfEverySize(t *testing.T) {
	guest.Only(t)
	want, got := map[string]string{}, map[string]string{}
	before := latest(t)
	look := func() {
		for _, row := range query(t, "SELECT size, sha256, hash_source FROM kernel_module_events WHERE eid > %d AND event_name = 'init_module'", before) {
			got[row["size"]] = row["sha256"] + " " + row["hash_source"]
		}
		before = latest(t)
	}
	for room := 0; room <= 2*65536; room += 1024 {
		if room%16384 == 0 {
			look() // an emulated reader does not keep up with all of them at once
		}
		for size := room - 1; size <= room+1; size++ {
			if size < 64 {
				continue // the kernel requires at least the header of an ELF file
			}
			content := bytes.Repeat([]byte{byte(size), byte(size >> 8), 1}, size/3+1)[:size]
			require.ErrorIs(t, guest.LoadImage(content, ""), unix.ENOEXEC, size)
			want[strconv.Itoa(size)] = sum(content) + " kernel"
		}
	}
	look()
	require.Equal(t, want, got)
}
