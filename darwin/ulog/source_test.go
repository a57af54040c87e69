package ulog

import (
	"github.com/kmodquery/kmodquery/collectors"
)

var _ collectors.Backfiller = (*Source)(nil)
