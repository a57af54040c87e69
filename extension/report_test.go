package main

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/hostile"
)

func TestReportIsHarmless(t *testing.T) {
	for _, text := range hostile.Texts() {
		var b strings.Builder
		report := newReport(&b)
		report.Printf("open %s: %v", text, errors.Join(errors.New(text), errors.New("second")))
		line, isLine := strings.CutSuffix(b.String(), "\n")
		require.True(t, isLine)
		require.Empty(t, hostile.Harm(line))
		require.True(t, strings.HasPrefix(line, "kmodquery: open "), line)
		require.True(t, strings.HasSuffix(line, " second"), line)
	}
}

// Messages of libraries, such as the log of a table's panic, are escaped as well.
func TestLogsOfLibrariesAreHarmless(t *testing.T) {
	for _, text := range hostile.Texts() {
		var b strings.Builder
		slog.New(slog.NewTextHandler(lineWriter{&b}, nil)).Error(text, "panic", text, "stack", "a\n\tb\n"+text)
		line, isLine := strings.CutSuffix(b.String(), "\n")
		require.True(t, isLine)
		require.Empty(t, hostile.Harm(line))
	}
}
