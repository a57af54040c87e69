package kmodquery_test

import (
	"fmt"

	"github.com/kmodquery/kmodquery"
)

// A signature is metadata and a function that judges one event. This one accepts modules
// that are loaded from memory, without a file on disk.
func Example() {
	fromMemory := kmodquery.Signature{
		Metadata: kmodquery.Metadata{ID: "EXAMPLE-1", Name: "Kernel module loaded from memory", Severity: 3},
		Events:   []string{kmodquery.EventInitModule},
		Columns:  []string{"origin", "name", "process_name"},
		Match: func(e *kmodquery.Event) (reason string, ok bool) {
			if e.Origin != kmodquery.OriginMemory {
				return "", false
			}
			return fmt.Sprintf("%s loaded %s from memory", e.ProcessName, e.Name), true
		},
	}

	events := []kmodquery.Event{
		{EventName: kmodquery.EventInitModule, Name: "dummy", Origin: kmodquery.OriginMemory, ProcessName: "insmod"},
		{EventName: kmodquery.EventInitModule, Name: "ext4", Origin: kmodquery.OriginFile, ProcessName: "modprobe"},
	}
	for i := range events {
		if reason, ok := fromMemory.Match(&events[i]); ok {
			fmt.Printf("%s: %s\n", fromMemory.ID, reason)
		}
	}
	// Output:
	// EXAMPLE-1: insmod loaded dummy from memory
}

// Missing names the columns that apply to an event and whose value could not be
// determined. A nil or empty column that is not in Missing does not apply.
func ExampleColumns() {
	load := kmodquery.Event{EventName: kmodquery.EventModuleLoad, Name: "dummy"}
	load.Missing.Add("path", "sha256")

	load.SHA256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
	load.Missing.Remove("sha256")

	fmt.Println(load.Missing, load.Missing.Has("path"), load.Missing.Has("sha256"))
	// Output:
	// path true false
}
