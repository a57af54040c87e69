//go:build linux

package module

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSignatureStatus(t *testing.T) {
	errno := func(e unix.Errno) *int64 { return new(-int64(e)) }
	yes, no, ok := new(true), new(false), new(int64(0))
	tests := []struct {
		name    string
		verdict *int64
		sigOK   *bool
		result  *int64
		want    string
	}{
		{"nothing is known", nil, nil, nil, ""},
		{"a kernel that does not look at signatures", nil, nil, ok, ""},
		{"not verified, loaded", nil, no, ok, ""},
		{"not verified, failed", nil, nil, errno(unix.ENOEXEC), ""},
		{"verified", ok, yes, nil, "valid"},
		{"verified, the verdict was not seen", nil, yes, nil, "valid"},
		{"verified, and the load failed", ok, nil, errno(unix.EEXIST), "valid"},
		{"no such key", errno(unix.ENOKEY), no, nil, "untrusted"},
		{"no such algorithm", errno(unix.ENOPKG), no, nil, "untrusted"},
		{"does not fit", errno(unix.EKEYREJECTED), nil, errno(unix.EKEYREJECTED), "rejected"},
		{"malformed", errno(unix.EBADMSG), nil, errno(unix.EBADMSG), "rejected"},
		{"out of memory", errno(unix.ENOMEM), nil, errno(unix.ENOMEM), "rejected"},
		{"unsigned, which is enforced", nil, nil, errno(unix.EKEYREJECTED), "rejected"},
		{"no such key, which is enforced", errno(unix.ENOKEY), nil, errno(unix.EKEYREJECTED), "rejected"},
		{"a number that is no errno", new(int64(7)), nil, nil, "rejected"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, SignatureStatus(test.verdict, test.sigOK, test.result))
		})
	}
}
