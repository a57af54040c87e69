//go:build linux

package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Kernel is a Debian kernel to boot, identified by the beginning of its version.
type Kernel struct {
	Version string   // "6.1"; "7" is the newest 7.x
	Suites  []string // Debian suites that may have it
	Arch    Arch
	Flavour string // Debian's name of the configuration, such as "rt"; "" is "cloud"
}

// realtime is built with PREEMPT_RT. It is not in the matrix.
var realtime = Kernel{Version: "6.12", Suites: []string{"trixie"}, Arch: AMD64, Flavour: "rt"}

var newest = Kernel{Version: "7", Suites: []string{"trixie-backports", "sid"}, Arch: AMD64}

var matrix = []Kernel{
	{Version: "5.10", Suites: []string{"bullseye-security"}, Arch: AMD64},
	{Version: "6.1", Suites: []string{"bookworm"}, Arch: AMD64},
	{Version: "6.12", Suites: []string{"trixie"}, Arch: AMD64},
	newest,
	{Version: "6.12", Suites: []string{"trixie"}, Arch: ARM64},
}

// Matrix returns the kernels that the project is tested on, oldest first, the
// arm64 one last.
func Matrix() []Kernel { return slices.Clone(matrix) }

// Oldest returns the oldest kernel of the matrix.
func Oldest() Kernel { return matrix[0] }

// Newest returns the newest kernel of the matrix.
func Newest() Kernel { return newest }

// Realtime returns a kernel with PREEMPT_RT.
func Realtime() Kernel { return realtime }

// String returns the kernel's name, such as "6.1", "7.x", "6.12-arm64" or "6.12-rt".
func (k Kernel) String() string {
	name := k.Version
	if !strings.Contains(name, ".") {
		name += ".x"
	}
	if k.Arch != AMD64 {
		name += "-" + string(k.Arch)
	}
	if k.Flavour != "" {
		name += "-" + k.Flavour
	}
	return name
}

// suffix is how the release of the kernel ends.
func (k Kernel) suffix() string { return "-" + cmp.Or(k.Flavour, "cloud") + "-" + string(k.Arch) }

// An Image is a kernel in the cache.
type Image struct {
	Kernel  Kernel
	Release string // as uname -r prints it
	Linux   string // the bootable file
	Modules string // the folder that is /lib/modules/<release>, with modules.dep
	tools   string // the folder that the guest's programs are unpacked in
}

// Fetch returns the kernel from the cache. It first ensures that everything needed to
// boot it is present: the host's packages ([Prepare]), the guest's programs, and the
// kernel itself, in the newest version that the suites have at the time of the
// download.
func (k Kernel) Fetch(ctx context.Context, logf Logf) (*Image, error) {
	if err := Prepare(ctx, k.Arch, logf); err != nil {
		return nil, err
	}
	tools, err := fetchTools(ctx, k.Arch, logf)
	if err != nil {
		return nil, err
	}
	dir, err := cached(ctx, "kernels", strings.TrimSuffix(k.Version+"-"+string(k.Arch)+"-"+k.Flavour, "-"), func(dir string) error {
		return k.download(ctx, dir, logf)
	})
	if err != nil {
		return nil, fmt.Errorf("fetch kernel %s: %w", k, err)
	}
	releases, err := os.ReadDir(filepath.Join(dir, "lib", "modules"))
	if err != nil {
		return nil, fmt.Errorf("read kernel %s from the cache: %w", k, err)
	}
	if len(releases) != 1 {
		return nil, fmt.Errorf("kernel %s in the cache is damaged: remove %s", k, dir)
	}
	release := releases[0].Name()
	return &Image{
		Kernel:  k,
		Release: release,
		Linux:   filepath.Join(dir, "vmlinuz"),
		Modules: filepath.Join(dir, "lib", "modules", release),
		tools:   tools,
	}, nil
}

// A build is a version of a kernel in one suite.
type build struct {
	archive  *archive
	release  string
	packages []string
}

func (k Kernel) download(ctx context.Context, dir string, logf Logf) error {
	b, err := k.newestBuild(ctx, logf)
	if err != nil {
		return err
	}
	logf("downloading kernel %s from Debian %s", b.release, b.archive.suite)
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	if err := b.archive.unpack(ctx, root, b.packages...); err != nil {
		return err
	}
	modules := filepath.Join(dir, "lib", "modules", b.release)
	if err := os.MkdirAll(filepath.Dir(modules), 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	if err := renameFirst(modules,
		filepath.Join(root, "usr/lib/modules", b.release),
		filepath.Join(root, "lib/modules", b.release)); err != nil {
		return err
	}
	if err := renameFirst(filepath.Join(dir, "vmlinuz"),
		filepath.Join(modules, "vmlinuz"),
		filepath.Join(root, "boot", "vmlinuz-"+b.release)); err != nil {
		return err
	}
	// Debian's packages create modules.dep only when they are installed.
	if _, err := run(ctx, "", "depmod", "-b", dir, b.release); err != nil {
		return fmt.Errorf("index the modules of %s: %w", b.release, err)
	}
	if err := os.RemoveAll(root); err != nil {
		return fmt.Errorf("tidy the cache: %w", err)
	}
	return nil
}

// renameFirst moves the first of the candidates that exists.
func renameFirst(to string, candidates ...string) error {
	for _, from := range candidates {
		if exists(from) {
			if err := os.Rename(from, to); err != nil {
				return fmt.Errorf("arrange a kernel's files: %w", err)
			}
			return nil
		}
	}
	return fmt.Errorf("the kernel's packages have none of %v: Debian changed its layout", candidates)
}

// newestBuild searches all suites for the kernel. An unreadable suite is an error only
// if no other suite has the kernel.
func (k Kernel) newestBuild(ctx context.Context, logf Logf) (*build, error) {
	var found *build
	var failed error
	for _, suite := range k.Suites {
		a, err := openArchive(ctx, suite, k.Arch, logf)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		names, err := a.search(ctx, "^linux-.*"+k.suffix()+"$")
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		for release, packages := range k.builds(names) {
			if found == nil || slices.Compare(numbers(release), numbers(found.release)) > 0 {
				found = &build{archive: a, release: release, packages: packages}
			}
		}
	}
	if found == nil && failed == nil {
		failed = fmt.Errorf("no such kernel in Debian %s", strings.Join(k.Suites, " and "))
	}
	if found == nil {
		return nil, failed
	}
	if failed != nil {
		logf("a newer kernel %s may exist: %v", k, failed)
	}
	return found, nil
}

var packageName = regexp.MustCompile(`^linux-(image|binary|modules|base)-([0-9].*)$`)

// builds returns the kernel's complete builds among the names of packages, as a map
// from release to packages. Up to 6.18 a linux-image package holds everything. Since
// then it is empty: the bootable file is in linux-binary, the modules are in
// linux-modules, and their indexes in linux-base. Package names of a replaced build may
// remain after some of its packages are gone.
func (k Kernel) builds(names []string) map[string][]string {
	parts := map[string]map[string]string{}
	for _, name := range names {
		m := packageName.FindStringSubmatch(name)
		if m == nil || !strings.HasPrefix(m[2], k.Version+".") || !strings.HasSuffix(m[2], k.suffix()) {
			continue
		}
		if parts[m[2]] == nil {
			parts[m[2]] = map[string]string{}
		}
		parts[m[2]][m[1]] = name
	}
	builds := map[string][]string{}
	for release, have := range parts {
		switch {
		case have["binary"] != "" && have["modules"] != "" && have["base"] != "":
			builds[release] = []string{have["binary"], have["modules"], have["base"]}
		case have["binary"] == "" && have["modules"] == "" && have["image"] != "":
			builds[release] = []string{have["image"]}
		}
	}
	return builds
}

var digits = regexp.MustCompile(`[0-9]+`)

// numbers returns the numbers of a release in order. Releases compare by them.
func numbers(release string) []int {
	var all []int
	for _, s := range digits.FindAllString(release, -1) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return all
		}
		all = append(all, n)
	}
	return all
}
