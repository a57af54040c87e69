package darwin

import (
	"github.com/kmodquery/kmodquery/collectors"
)

var _ collectors.Historian = (*UnifiedLog)(nil)
