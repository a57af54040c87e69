//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// An archive is one Debian suite for one architecture. It has an apt state of its own:
// the host's lists, sources and architectures stay unchanged.
type archive struct {
	dir   string
	suite string
	arch  Arch
}

// listsAge is the maximum age of package lists. The mirror removes a package some time
// after a newer version has replaced it.
const listsAge = time.Hour

// openArchive returns the archive with fresh lists. apt has checked their signatures
// with Debian's keyring.
func openArchive(ctx context.Context, suite string, arch Arch, logf Logf) (*archive, error) {
	dir, err := cacheDir("apt", suite+"-"+string(arch))
	if err != nil {
		return nil, err
	}
	a := &archive{dir: dir, suite: suite, arch: arch}
	release, err := lock(ctx, "apt-"+filepath.Base(dir))
	if err != nil {
		return nil, err
	}
	defer release()
	stamp := filepath.Join(dir, "updated")
	if info, err := os.Stat(stamp); err == nil && time.Since(info.ModTime()) < listsAge {
		return a, nil
	}
	if err := a.configure(ctx); err != nil {
		return nil, err
	}
	logf("fetching the package lists of Debian %s %s", suite, arch)
	if _, err := a.apt(ctx, "", "apt-get", "update", "-q", "--error-on=any"); err != nil {
		return nil, fmt.Errorf("fetch the package lists of Debian %s (a missing key means that the package debian-archive-keyring is too old): %w", suite, err)
	}
	if err := os.WriteFile(stamp, nil, 0o644); err != nil {
		return nil, fmt.Errorf("mark the package lists as fetched: %w", err)
	}
	return a, nil
}

func (a *archive) configure(ctx context.Context) error {
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, sub), 0o755); err != nil {
			return fmt.Errorf("make apt's folders: %w", err)
		}
	}
	keyring, err := debianKeyring()
	if err != nil {
		return err
	}
	uri, err := mirror(ctx, strings.HasSuffix(a.suite, "-security"))
	if err != nil {
		return err
	}
	source := fmt.Sprintf("deb [arch=%s signed-by=%s] %s %s main\n", a.arch, keyring, uri, a.suite)
	if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(source), 0o644); err != nil {
		return fmt.Errorf("write apt's sources: %w", err)
	}
	if err := os.WriteFile(filepath.Join(a.dir, "status"), nil, 0o644); err != nil {
		return fmt.Errorf("write dpkg's status: %w", err)
	}
	return nil
}

func debianKeyring() (string, error) {
	for _, path := range []string{
		"/usr/share/keyrings/debian-archive-keyring.pgp",
		"/usr/share/keyrings/debian-archive-keyring.gpg",
	} {
		if exists(path) {
			return path, nil
		}
	}
	return "", errors.New("no keyring of Debian's archive: run as root: apt-get install debian-archive-keyring")
}

// privateState returns options that make apt store its files below dir. The rest of the
// host's configuration, such as a proxy, stays in force.
func privateState(dir string) []string {
	return []string{
		"-o", "Dir::State=" + dir,
		"-o", "Dir::State::lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::Retries=3",
		// The user _apt cannot write to this folder.
		"-o", "APT::Sandbox::User=root",
	}
}

func (a *archive) apt(ctx context.Context, cwd, program string, args ...string) (string, error) {
	options := append(privateState(a.dir),
		"-o", "Dir::State::status="+filepath.Join(a.dir, "status"),
		"-o", "Dir::Etc::sourcelist="+filepath.Join(a.dir, "sources.list"),
		"-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::Etc::preferences=/dev/null",
		"-o", "Dir::Etc::preferencesparts=/dev/null",
		"-o", "APT::Architecture="+string(a.arch),
		"-o", "APT::Architectures::="+string(a.arch),
	)
	return run(ctx, cwd, program, append(options, args...)...)
}

// search returns the names of the packages that match the POSIX pattern.
func (a *archive) search(ctx context.Context, pattern string) ([]string, error) {
	out, err := a.apt(ctx, "", "apt-cache", "search", "--names-only", pattern)
	if err != nil {
		return nil, fmt.Errorf("search Debian %s: %w", a.suite, err)
	}
	var names []string
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	return names, nil
}

// unpack downloads packages and puts their files below root.
func (a *archive) unpack(ctx context.Context, root string, packages ...string) error {
	debs, err := os.MkdirTemp(a.dir, "debs-")
	if err != nil {
		return fmt.Errorf("make a folder for packages: %w", err)
	}
	defer os.RemoveAll(debs)
	if _, err := a.apt(ctx, debs, "apt-get", append([]string{"download", "-q"}, packages...)...); err != nil {
		return fmt.Errorf("download from Debian %s: %w", a.suite, err)
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(files) != len(packages) {
		return fmt.Errorf("download from Debian %s: asked for %d packages, got %d", a.suite, len(packages), len(files))
	}
	for _, file := range files {
		if _, err := run(ctx, "", "dpkg-deb", "-x", file, root); err != nil {
			return fmt.Errorf("unpack a package: %w", err)
		}
	}
	return nil
}

// mirror returns the address of Debian's archive, or of its security archive,
// that the host's own apt uses.
func mirror(ctx context.Context, security bool) (string, error) {
	targets, err := indexTargets(ctx)
	if err != nil {
		return "", err
	}
	label := "Debian"
	if security {
		label = "Debian-Security"
	}
	var plain string
	for line := range strings.Lines(targets) {
		uri, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if rest == label {
			return uri, nil
		}
		if rest == "Debian" {
			plain = uri
		}
	}
	if security && plain != "" {
		// On a host without security updates: the security archive is beside the main
		// one.
		return strings.TrimSuffix(plain, "/") + "-security/", nil
	}
	return "", errors.New("the host's apt knows no Debian archive (apt-get indextargets): this needs a Debian machine")
}

// indexTargets returns the address and the label of every archive whose lists the
// host's apt has, one per line. If it has none, indexTargets fetches them into a folder
// of its own.
func indexTargets(ctx context.Context) (string, error) {
	list := []string{"indextargets", "--format", "$(REPO_URI) $(LABEL)", "Created-By: Packages"}
	targets, err := run(ctx, "", "apt-get", list...)
	if err != nil {
		return "", fmt.Errorf("read the mirror from apt: %w", err)
	}
	if targets != "" {
		return targets, nil
	}
	dir, err := cacheDir("apt", "host")
	if err != nil {
		return "", err
	}
	release, err := lock(ctx, "apt-host")
	if err != nil {
		return "", err
	}
	defer release()
	if err := os.MkdirAll(filepath.Join(dir, "lists", "partial"), 0o755); err != nil {
		return "", fmt.Errorf("make apt's folders: %w", err)
	}
	if _, err := run(ctx, "", "apt-get", append(privateState(dir), "update", "-q")...); err != nil {
		return "", fmt.Errorf("fetch the host's package lists: %w", err)
	}
	targets, err = run(ctx, "", "apt-get", append(privateState(dir), list...)...)
	if err != nil {
		return "", fmt.Errorf("read the mirror from apt: %w", err)
	}
	return targets, nil
}
