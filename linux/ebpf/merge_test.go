//go:build linux

package ebpf

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestKernelTakesPrecedenceOverTheImage(t *testing.T) {
	r := newRecorded()
	live := load
	live.Version, live.Srcversion = "kernel's", ""
	claims := found
	claims.columns.Name, claims.columns.Version, claims.columns.Srcversion = "reserved", "reserved", "reserved"
	r.add(readFile, start)
	r.expectImage("a")
	r.setImage("a", claims)
	r.add(live, start)
	r.add(returned(kmodquery.EventFinitModule, 0), start)
	require.Len(t, r.events, 3)
	for _, e := range r.events {
		require.Equal(t, "x", e.Name, e.EventName)
		require.Equal(t, "kernel's", e.Version, e.EventName)
		require.Equal(t, "reserved", e.Srcversion, e.EventName)
		require.Equal(t, "5a", e.SHA256, e.EventName)
		require.Equal(t, "1a", e.ImageSHA256, e.EventName)
		require.Equal(t, "kernel", e.HashSource, e.EventName)
		require.Equal(t, "6.1", e.Vermagic, e.EventName)
		require.Equal(t, "GPL", e.License, e.EventName)
		require.EqualValues(t, 1, *e.Intree, e.EventName)
		require.Equal(t, "A0", e.SignatureKeyID, e.EventName)
		require.Equal(t, "sha256", e.SignatureHash, e.EventName)
		require.Empty(t, e.Missing, e.EventName)
	}
}

// Only the image names a module that the kernel refused.
func TestImageNamesARefusedModule(t *testing.T) {
	r := newRecorded()
	r.add(readFile, start)
	r.expectImage("a")
	r.setImage("a", found)
	call := returned(kmodquery.EventFinitModule, -8)
	r.add(call, start)
	for _, e := range r.events {
		require.Equal(t, "x", e.Name, e.EventName)
		require.Empty(t, e.Missing, e.EventName)
	}

	t.Run("that was given up", func(t *testing.T) {
		r := newRecorded()
		r.add(readFile, start)
		r.expectImage("a")
		r.setImage("a", found)
		r.expire(start.Add(loadPatience))
		require.Equal(t, "x", r.events[0].Name)
		require.Empty(t, r.events[0].Missing)
	})
}

func TestOnlyUnknownColumnsAreMissing(t *testing.T) {
	r := newRecorded()
	live := load
	live.Version = "1.0"
	partly := imageInfo{columns: kmodquery.Event{
		SHA256: "5a", HashSource: "kernel", Signer: "cut", Missing: "image_sha256,version,srcversion,signer,no_column",
	}}
	r.add(readFile, start)
	r.expectImage("a")
	r.setImage("a", partly)
	r.add(live, start)
	for _, e := range r.events {
		require.Equal(t, "image_sha256,srcversion", e.Missing.String(), e.EventName)
	}
}

// A system call that took no module has no image.
func TestCallsWithoutAModuleHaveNoImage(t *testing.T) {
	r := newRecorded()
	r.add(free, start)
	r.add(returned(kmodquery.EventDeleteModule, 0), start)
	r.add(returned(kmodquery.EventFinitModule, -1), start)
	require.Len(t, r.events, 3)
	for _, e := range r.events {
		require.Empty(t, e.Missing, e.EventName)
		require.Empty(t, e.SignatureStatus, e.EventName)
	}
}

func TestSignatureStatusOfAnAttempt(t *testing.T) {
	signed := imageInfo{isSigned: true, columns: kmodquery.Event{SHA256: "5a", Signer: "somebody"}}
	garbled := imageInfo{isSigned: true, columns: kmodquery.Event{SHA256: "5a", Missing: "signer,signature_key_id,signature_hash"}}
	unsigned := imageInfo{columns: kmodquery.Event{SHA256: "5a"}}
	// Nobody knows whether a module that could not be decompressed is signed.
	packed := imageInfo{columns: kmodquery.Event{SHA256: "5a", Missing: "image_sha256,signer,signature_key_id,signature_hash"}}
	tests := []struct {
		name         string
		image        *imageInfo
		live         string // the kernel's verdict at module_load, or "none" of one without CONFIG_MODULE_SIG
		failed, want string // the kernel's verdict at the return of a load that failed, and of one that did not
	}{
		{"signed, and the kernel said nothing", &signed, "", "unknown", "untrusted"},
		{"signed, and the kernel never verifies", &signed, "none", "unknown", "unknown"},
		{"unsigned, and the kernel never verifies", &unsigned, "none", "unsigned", "unsigned"},
		{"garbled signature, and the kernel said nothing", &garbled, "", "unknown", "untrusted"},
		{"unsigned", &unsigned, "", "unsigned", "unsigned"},
		{"undecompressed", &packed, "", "unknown", "unknown"},
		{"no image", nil, "", "unknown", "unknown"},
		{"verified", &signed, "valid", "valid", "valid"},
		{"verified, no image", nil, "valid", "valid", "valid"},
		{"key unknown", &signed, "untrusted", "untrusted", "untrusted"},
		{"rejected", &signed, "rejected", "rejected", "rejected"},
		{"rejected for the want of it", &unsigned, "rejected", "rejected", "rejected"},
	}
	for _, test := range tests {
		for _, isLive := range []bool{true, false} {
			t.Run(test.name, func(t *testing.T) {
				r := newRecorded()
				r.add(readFile, start)
				r.expectImage("a")
				verifies := test.live != "none"
				if !verifies {
					test.live = ""
				}
				back := returned(kmodquery.EventFinitModule, -8)
				want := test.failed
				if isLive {
					want = test.want
					live := load
					live.SignatureStatus = test.live
					r.change("a", start, func(a *attempt) { a.isVerified = verifies })
					r.add(live, start)
					back = returned(kmodquery.EventFinitModule, 0)
				}
				back.SignatureStatus = test.live
				r.add(back, start)
				if test.image != nil {
					r.setImage("a", *test.image)
				} else {
					r.expire(start.Add(imagePatience))
				}
				require.GreaterOrEqual(t, len(r.events), 2)
				for _, e := range r.events {
					require.Equal(t, want, e.SignatureStatus, e.EventName)
				}
			})
		}
	}
}

// fill must copy every column that an image has.
func TestFillCopiesImageColumns(t *testing.T) {
	var e kmodquery.Event
	fill(&e, &found.columns)
	require.Equal(t, found.columns, e)
	fill(&e, &kmodquery.Event{SHA256: "other", Intree: new(int64(0))})
	require.Equal(t, found.columns, e, "what is known stays")
}
