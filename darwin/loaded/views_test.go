package loaded

import (
	"github.com/kmodquery/kmodquery/collectors"
)

var _ collectors.Views = (*Kexts)(nil)
