//go:build linux

package host

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// Stamp returns an event with the fields of the present moment: times and boot id.
func Stamp() kmodquery.Event {
	now := time.Now()
	bootID, _ := BootID() // without /proc it stays unknown
	return kmodquery.Event{
		Time:      now.Unix(),
		TimeNanos: now.UnixNano(),
		Uptime:    new(int64(SinceBoot() / time.Second)),
		BootID:    bootID,
	}
}

// BootID returns the id of the present boot.
func BootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
