//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// CacheEnv names the environment variable that moves the cache folder.
const CacheEnv = "KMODQUERY_CACHE"

// cacheDir returns a folder below the cache and creates it if necessary.
func cacheDir(elem ...string) (string, error) {
	root := os.Getenv(CacheEnv)
	if root == "" {
		module, err := moduleRoot()
		if err != nil {
			return "", err
		}
		root = filepath.Join(module, ".cache", "vm")
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("find the cache: %w", err)
	}
	dir := filepath.Join(append([]string{root}, elem...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache: %w", err)
	}
	return dir, nil
}

// moduleRoot returns the nearest folder with a go.mod at or above the working
// directory, which go test sets to the tested package's.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the module's root: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod at or above the working directory: set %s to a folder for downloads", CacheEnv)
		}
		dir = parent
	}
}

// cached returns the folder kind/name of the cache. If it does not exist, fill creates
// its content. Only one process at a time fills a folder. The folder gets its name only
// when it is complete.
func cached(ctx context.Context, kind, name string, fill func(dir string) error) (string, error) {
	parent, err := cacheDir(kind)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(parent, name)
	if exists(dir) {
		return dir, nil
	}
	release, err := lock(ctx, kind+"-"+name)
	if err != nil {
		return "", err
	}
	defer release()
	if exists(dir) {
		return dir, nil
	}
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", fmt.Errorf("remove an unfinished download: %w", err)
	}
	if err := os.Mkdir(partial, 0o755); err != nil {
		return "", fmt.Errorf("make the cache: %w", err)
	}
	if err := fill(partial); err != nil {
		return "", errors.Join(err, os.RemoveAll(partial))
	}
	if err := os.Rename(partial, dir); err != nil {
		return "", fmt.Errorf("keep a download: %w", err)
	}
	return dir, nil
}

// lock holds the cache's lock of that name until release is called. It excludes other
// processes and other callers in this process.
func lock(ctx context.Context, name string) (release func(), err error) {
	dir, err := cacheDir("locks")
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open a lock of the cache: %w", err)
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("wait for %s: %w", file.Name(), ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
