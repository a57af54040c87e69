// Package rules reads the detections that a host's administrator writes: rules, each with a
// condition over the columns of kernel_module_loads, and expectations, which lower the
// severity of findings. A [Folders] reads them again when they change.
//
// It may import package kmodquery, internal packages, and libraries.
package rules
