//go:build linux

package e2e

import "errors"

// inject is for amd64 only: TestSources boots no other kernel.
func inject(int, uint64, uint64) error { return errors.ErrUnsupported }
