package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A new recorder knows as much of the loaded modules as the last one did. Without what was
// loaded, the inventory would show the facts of another file of the module's name.
func TestANewRecorderKnowsWhatTheLastOneKnewOfModules(t *testing.T) {
	load := func(name string) kmodquery.Event {
		return kmodquery.Event{
			Time: 100, TimeNanos: 100e9, Uptime: new(int64(10)), BootID: "this", EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF,
			LoadID: "load of " + name, Name: name, Type: kmodquery.TypeKernelModule, SHA256: "sum", ImageSHA256: "sum of the image", Signer: "Debian",
		}
	}
	fromFile, fromMemory := load("file"), load("memory")
	fromFile.Path, fromFile.Origin = "/tmp/file.ko", kmodquery.OriginFile
	fromFile.Device, fromFile.Inode, fromFile.Size, fromFile.Ctime = new(int64(1)), new(int64(2)), new(int64(3)), new(int64(4))
	fromMemory.Origin = kmodquery.OriginMemory

	deliveries := []kmodquery.Delivery{{Event: fromFile}, {Event: fromMemory}}
	store, err := sqlite.Open(t.Context(), t.TempDir(), sqlite.Options{})
	require.NoError(t, err)
	defer store.Close()
	require.NoError(t, store.Append(t.Context(), deliveries))
	last, next := crossview.NewState("this"), crossview.NewState("this")
	last.Add(deliveries[0].Event, deliveries[1].Event)
	p := &platform{stamp: func() kmodquery.Event { return kmodquery.Event{BootID: "this"} }}
	require.NoError(t, past(t.Context(), p, store, func(e *kmodquery.Event) { next.Add(*e) }))

	want := last.Loaded(crossview.Start{}, &kmodquery.Event{})
	require.Len(t, want, 2)
	for _, module := range want {
		require.True(t, module.Loaded.IsComparable())
		require.Equal(t, "Debian", *module.Loaded.Signer)
	}
	require.Equal(t, want, next.Loaded(crossview.Start{}, &kmodquery.Event{}))
}
