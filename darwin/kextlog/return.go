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
	"kOSKextReturnTimeout", "kOSKextReturnStopping", "kOSKextReturnSystemPolicy",
}

// extensionReturn is the value before the first of them.
const extensionReturn = 0xdc008000

// parseReturn parses the hex number that the kernel prints for a failure. The
// result is always negative: an OSReturn as its signed value, any other number
// negated, and 0 as refused. The name is Apple's, or the number if it has none.
func parseReturn(hex string) (result int64, name string, ok bool) {
	n, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		return 0, "", false
	}
	if n > extensionReturn && n <= extensionReturn+uint64(len(extensionReturns)) {
		name = extensionReturns[n-extensionReturn-1]
	} else {
		name = fmt.Sprintf("0x%x", n)
	}
	switch result = int64(int32(uint32(n))); {
	case result == 0:
		return refused, name, true
	case result > 0:
		result = -result
	}
	return result, name, true
}
