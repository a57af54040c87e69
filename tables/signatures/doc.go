// Package signatures contains the detections: one file a signature, named after its ID.
// [All] lists them.
//
// Package tables calls each signature with the stored events and shows those that it
// accepts as findings. The package may import package kmodquery only.
package signatures
