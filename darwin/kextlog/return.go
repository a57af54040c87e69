package kextlog

import (
	"fmt"
	"strconv"
)

// extensionReturns are the names in libkern/OSKextLib.h, from 0xdc008001 on.
var extensionReturns = []string{
	"kOSKextReturnInternalError", "kOSKextReturnNoMemory", "kOSKextReturnNoResources", "kOSKextReturnNotPrivileged",
	"kOSKextReturnInvalidArgument", "kOSKextReturnNotFound", "kOSKextReturnBadData", "kOSKextReturnSerialization",
	"kOSKextReturnUnsupported", "kOSKextReturnDisabled", "kOSKextReturnNotAKext", "kOSKextReturnValidation",
	"kOSKextReturnAuthentication", "kOSKextReturnDependencies", "kOSKextReturnArchNotFound", "kOSKextReturnCache",
	"kOSKextReturnDeferred", "kOSKextReturnBootLevel", "kOSKextReturnNotLoadable", "kOSKextReturnLoadedVersionDiffers",
	"kOSKextReturnDependencyLoadError", "kOSKextReturnLinkError", "kOSKextReturnStartStopError", "kOSKextReturnInUse",
	"kOSKextReturnTimeout", "kOSKextReturnStopping", systemPolicy,
	"kOSKextReturnKCLoadFailure", "kOSKextReturnKCLoadFailureSystemKC", "kOSKextReturnKCLoadFailureAuxKC",
}

// systemPolicy is the name of a denial by the system policy.
const systemPolicy = "kOSKextReturnSystemPolicy"

// extensionReturn is the value before the first of them.
const extensionReturn = 0xdc008000

// parseReturn parses the hex number of at most 8 digits that the kernel prints for a
// failure. The result is always negative: an OSReturn as its signed value, any other
// number negated, and 0 as refused. The name is Apple's, or the number if it has none.
func parseReturn(hex string) (result int64, name string) {
	n, _ := strconv.ParseUint(hex, 16, 32) // the caller has checked the digits
	name = fmt.Sprintf("0x%x", n)
	if n > extensionReturn && n <= extensionReturn+uint64(len(extensionReturns)) {
		name = extensionReturns[n-extensionReturn-1]
	}
	if n == 0 {
		return refused, name
	}
	result = int64(int32(uint32(n)))
	return min(result, -result), name
}
