//go:build linux

package host

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
)

// Canary returns the third argument of the calls of init_module(2) that this process makes to
// test its hooks. No other process can guess it, and no event is about such a call.
var Canary = sync.OnceValue(func() uint64 {
	var random [8]byte
	_, _ = rand.Read(random[:]) // it never fails
	return binary.NativeEndian.Uint64(random[:]) | 1
})
