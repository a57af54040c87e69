// Package account keeps what a source of events says of itself, and knows who
// waits for it: the part that all sources have in common. Each source of packages
// linux and darwin has an [Account], which gives it the Name, Sync and Sensor that
// package collectors asks for. It imports the root package only.
package account
