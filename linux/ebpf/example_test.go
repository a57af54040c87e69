//go:build linux

package ebpf_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/ebpf"
)

// This program prints each module that is loaded, until it is interrupted. It must
// run as root.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	source := ebpf.New(ebpf.Options{ImageLimit: ebpf.MaxImage})
	ready := func() { log.Println("the hooks are attached") }
	err := source.Run(ctx, ready, func(d kmodquery.Delivery) {
		if e := d.Event; e.EventName == kmodquery.EventModuleLoad {
			fmt.Println(e.Name, e.Path, e.SHA256, e.SignatureStatus, e.Cmdline)
		}
		source.Acked([]kmodquery.Delivery{d}) // releases the event's records in the kernel
	})
	if err != nil {
		log.Fatal(err)
	}
}
