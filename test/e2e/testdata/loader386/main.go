// Command loader386 loads the module image at os.Args[1] with the parameters
// in os.Args[2] through init_module(2).
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	image, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = unix.InitModule(image, os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
