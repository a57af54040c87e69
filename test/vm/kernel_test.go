//go:build linux

package vm

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuilds(t *testing.T) {
	for name, test := range map[string]struct {
		kernel Kernel
		names  []string
		want   map[string][]string
	}{
		"one package": {
			kernel: Kernel{Version: "6.1", Arch: AMD64},
			names: []string{
				"linux-image-6.1.0-50-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64-dbg",
				"linux-image-6.1.0-50-cloud-amd64-unsigned", "linux-image-cloud-amd64",
				"linux-image-6.12.1-cloud-amd64", "linux-image-6.1.0-50-amd64",
			},
			want: map[string][]string{"6.1.0-50-cloud-amd64": {"linux-image-6.1.0-50-cloud-amd64"}},
		},
		"split into three": {
			kernel: Kernel{Version: "7", Arch: AMD64},
			names: []string{
				"linux-image-7.3.4+deb13-cloud-amd64", "linux-binary-7.3.4+deb13-cloud-amd64",
				"linux-modules-7.3.4+deb13-cloud-amd64", "linux-base-7.3.4+deb13-cloud-amd64",
				"linux-binary-unsigned-7.3.4+deb13-cloud-amd64",
			},
			want: map[string][]string{"7.3.4+deb13-cloud-amd64": {
				"linux-binary-7.3.4+deb13-cloud-amd64", "linux-modules-7.3.4+deb13-cloud-amd64", "linux-base-7.3.4+deb13-cloud-amd64",
			}},
		},
		"split, with the modules gone": {
			kernel: Kernel{Version: "7", Arch: AMD64},
			names:  []string{"linux-image-7.1.3+deb13-cloud-amd64", "linux-binary-7.1.3+deb13-cloud-amd64"},
			want:   map[string][]string{},
		},
		"another architecture": {
			kernel: Kernel{Version: "6.12", Arch: ARM64},
			names:  []string{"linux-image-6.12.9+deb13-cloud-amd64", "linux-image-6.12.9+deb13-cloud-arm64"},
			want:   map[string][]string{"6.12.9+deb13-cloud-arm64": {"linux-image-6.12.9+deb13-cloud-arm64"}},
		},
		"another flavour": {
			kernel: Kernel{Version: "6.12", Arch: AMD64, Flavour: "rt"},
			names:  []string{"linux-image-6.12.9+deb13-cloud-amd64", "linux-image-6.12.9+deb13-rt-amd64", "linux-image-6.12.9+deb13-amd64"},
			want:   map[string][]string{"6.12.9+deb13-rt-amd64": {"linux-image-6.12.9+deb13-rt-amd64"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, test.kernel.builds(test.names))
		})
	}
}

func TestReleasesCompareByTheirNumbers(t *testing.T) {
	ordered := []string{
		"5.10.0-9-cloud-amd64", "5.10.0-46-cloud-amd64", "7.2.9+deb13-cloud-amd64",
		"7.2.13+deb14-cloud-amd64", "7.3.4+deb13-cloud-amd64", "7.10.1+deb14-cloud-amd64",
	}
	for i := range len(ordered) - 1 {
		require.Negative(t, slices.Compare(numbers(ordered[i]), numbers(ordered[i+1])), "%s and %s", ordered[i], ordered[i+1])
	}
}

func TestKernelNames(t *testing.T) {
	var names []string
	for _, k := range Matrix() {
		names = append(names, k.String())
	}
	require.Equal(t, []string{"5.10", "6.1", "6.12", "7.x", "6.12-arm64"}, names)
	require.Equal(t, "7.x", Newest().String())
	require.Equal(t, "6.12-rt", Realtime().String())
}
