// Package module reads the image of a Linux kernel module: its hashes, its signature
// and its .modinfo section. It imports the root package only, and reads images on
// every platform.
//
// Images are not trusted. A user who may load modules can craft one that misleads or
// exhausts its reader, so every step is bounded in time and memory, and values that
// could not be read are named. Where readers may differ, this package reads as the
// kernel does, so that it describes the module that was loaded.
package module
