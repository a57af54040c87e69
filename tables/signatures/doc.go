// Package signatures holds the detections: one file a signature, each named
// after its ID, and one list of them all.
//
// It stands at the end of the data's way: package tables hands each stored
// event to a signature and shows those it accepts as findings. It may import
// package kmodquery only.
package signatures
