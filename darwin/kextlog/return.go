package kextlog

import (
	"fmt"
	"strconv"
)

// extensionReturns are the names of libkern/OSKextLib.h, from 0xdc008001 on.
var extensionReturns = []string{
	"kOSKextReturnInternalError", "kOSKextReturnNoMemory", "kOSKextReturnNoResources", "kOSKextReturnNotPrivileged",
	"kOSKextReturnInvalidArgument", "kOSKextReturnNotFound", "kOSKextReturnBadData", "kOSKextReturnSerialization",
	"kOSKextReturnUnsupported", "kOSKextReturnDisabled", "kOSKextReturnNotAKext", "kOSKextReturnValidation",
	"kOSKextReturnAuthentication", "kOSKextReturnDependencies", "kOSKextReturnArchNotFound", "kOSKextReturnCache",
	"kOSKextReturnDeferred", "kOSKextReturnBootLevel", "kOSKextReturnNotLoadable", "kOSKextReturnLoadedVersionDiffers",
	"kOSKextReturnDependencyLoadError", "kOSKextReturnLinkError", "kOSKextReturnStartStopError", "kOSKextReturnInUse",
	"kOSKextReturnTimeout", "kOSKextReturnStopping", "kOSKextReturnSystemPolicy",
}

// extensionReturn is what comes before the first of them.
const extensionReturn = 0xdc008000

// parseReturn reads what the kernel prints of a failure in hex. The result is
// never positive and never 0: an OSReturn as the signed number that it is, and
// any other with a minus. The name is Apple's where it has one.
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
