//go:build linux

package vm

import (
	"debug/elf"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuild(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	require.NoError(t, os.WriteFile("go.mod", []byte("module example\n"), 0o644))
	require.NoError(t, os.WriteFile("main.go", []byte("package main\n\nfunc main() {}\n"), 0o644))
	output := filepath.Join(dir, "program")
	require.NoError(t, Build(t.Context(), ARM64, ".", output))

	static, err := isStatic(output)
	require.NoError(t, err)
	require.True(t, static)
	file, err := elf.Open(output)
	require.NoError(t, err)
	defer file.Close()
	require.Equal(t, elf.EM_AARCH64, file.Machine)

	require.NoError(t, os.WriteFile("main.go", []byte("package main\n\nfunc main() { undefined() }\n"), 0o644))
	require.ErrorContains(t, Build(t.Context(), ARM64, ".", output), "undefined: undefined")
}

func TestBinariesAreBuiltOnce(t *testing.T) {
	var s buildSet
	built := 0
	build := func(output string) error {
		built++
		require.Equal(t, "program", filepath.Base(output))
		return os.WriteFile(output, []byte("binary"), 0o600)
	}
	first, err := s.get("a", "program", build)
	require.NoError(t, err)
	require.FileExists(t, first)
	again, err := s.get("a", "program", build)
	require.NoError(t, err)
	require.Equal(t, first, again)
	other, err := s.get("b", "program", build)
	require.NoError(t, err)
	require.NotEqual(t, first, other)
	require.Equal(t, 2, built)
	failing := func(string) error { return os.ErrInvalid }
	_, err = s.get("c", "program", failing)
	require.ErrorIs(t, err, os.ErrInvalid)
	require.NoError(t, s.remove())
	require.NoFileExists(t, first)
	require.NoError(t, s.remove(), "there is nothing to remove")
}

func TestIsStatic(t *testing.T) {
	static, err := isStatic("/bin/sh")
	require.NoError(t, err)
	require.False(t, static)
	_, err = isStatic("go.mod")
	require.Error(t, err)
}
