package crossview

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestKeepHiddenPrefersTheHiddenLook(t *testing.T) {
	module := func(name string, views ...string) kmodquery.Module { return kmodquery.Module{Name: name, Views: views} }
	toggling := module("toggling", kmodquery.ViewSysfs)
	memory := module("", kmodquery.ViewVmallocinfo)
	all := []kmodquery.Module{
		module("dummy", kmodquery.ViewModules, kmodquery.ViewSysfs), module("hidden", kmodquery.ViewSysfs, kmodquery.ViewKallsyms),
		module("toggling", kmodquery.ViewModules, kmodquery.ViewSysfs), memory,
	}
	cheap := []kmodquery.Module{
		module("dummy", kmodquery.ViewModules), module("hidden", kmodquery.ViewSysfs), toggling, module("unloaded", kmodquery.ViewSysfs),
	}
	want := []kmodquery.Module{all[0], all[1], toggling, memory}
	require.Equal(t, want, keepHidden(all, cheap))
}
