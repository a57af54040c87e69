//go:build linux

package host

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"sync/atomic"
)

const (
	// canaryNumber are the bits of a canary that number the calls of a process. The lowest
	// is set.
	canaryNumber = 1<<16 - 1
	// canaryBits are set in each canary, so that it is no address of a process: not one with
	// a tag in its highest byte, as arm64 has them, either.
	canaryBits = 1<<63 | 1<<55
)

// Canary is CanaryOf the calls of init_module(2) that this process makes to test its hooks.
// Other processes can only guess it.
var Canary = sync.OnceValue(newCanary)

func newCanary() uint64 {
	var random [8]byte
	_, _ = rand.Read(random[:]) // it never fails
	return CanaryOf(binary.NativeEndian.Uint64(random[:]) | canaryBits)
}

var canaries atomic.Uint64

// NextCanary returns the third argument of the next such call, another one each time.
func NextCanary() uint64 { return Canary() | canaries.Add(1)<<1&canaryNumber | 1 }

// CanaryOf returns what the third arguments of all such calls of a process have in common.
func CanaryOf(argument uint64) uint64 { return argument &^ canaryNumber }
