package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
)

// aMac returns the platform of a Mac whose programs are in a folder.
func aMac(programs string) *platform {
	in := func(name string) string { return filepath.Join(programs, name) }
	return macOS(host.Programs{
		Eslogger: in("eslogger"), Log: in("log"), Kmutil: in("kmutil"),
		Csrutil: in("csrutil"), Codesign: in("codesign"), KextPolicy: in("KextPolicy"),
	}, macKernel{
		release: func() string { return "24.6.0" },
		boot:    bootOfAMac,
		remote:  func() ([]string, error) { return nil, nil },
	})
}

// bootOfAMac returns a boot an hour ago, or at the time $BOOTED.
func bootOfAMac() host.Boot {
	boot := host.Boot{ID: "6C9B7F0E-51B4-4B5E-9E5B-0C1D2E3F4A5B", Uptime: time.Hour}
	if booted, err := time.Parse(time.RFC3339, os.Getenv("BOOTED")); err == nil {
		boot.Uptime = time.Since(booted)
	}
	return boot
}

func TestHelpOnMacOSNamesItsSources(t *testing.T) {
	var stdout, stderr strings.Builder
	require.Zero(t, run(t.Context(), aMac(t.TempDir()), []string{"--help"}, input(t, ""), &stdout, &stderr))
	require.Contains(t, stdout.String(), "of endpoint_security")
	require.Contains(t, stdout.String(), "; auto runs all of them (default auto)")
	require.Empty(t, stderr.String())
}

func TestMacOSHasItsOwnSources(t *testing.T) {
	_, err := parse(aMac(t.TempDir()), []string{"query", "--sources", kmodquery.SourceEBPF})
	require.ErrorContains(t, err, `there is no source "ebpf" here; choose auto, or some of endpoint_security`)
	c, err := parse(aMac(t.TempDir()), []string{"query", "--sources", kmodquery.SourceEndpointSecurity})
	require.NoError(t, err)
	require.Equal(t, []string{kmodquery.SourceEndpointSecurity}, c.sources)
}

// On macOS doctor checks what the sources of macOS need, and the same of the store, the
// configuration and osquery.
func TestDoctorOnMacOS(t *testing.T) {
	p := macOS(host.Programs{}, macKernel{release: func() string { return "23.1.0" }})
	c, err := parse(p, []string{"doctor", "--state-dir", t.TempDir(), "--config", ""})
	require.NoError(t, err)
	var names []string
	for _, check := range doctorChecks(c) {
		names = append(names, check.Name)
	}
	require.Equal(t, []string{
		"kernel", "eslogger", "full_disk_access", "unified_log", "showloaded",
		"store", "configuration", "recorder", "osquery", "osquery_flags", "autoload", "binary", "registered",
	}, names)
}
