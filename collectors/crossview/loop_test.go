package crossview

import (
	"context"
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
		module("toggling", kmodquery.ViewModules, kmodquery.ViewSysfs), module("a/b", kmodquery.ViewModules), memory,
	}
	cheap := []kmodquery.Module{
		module("dummy", kmodquery.ViewModules), module("hidden", kmodquery.ViewSysfs), toggling, module("unloaded", kmodquery.ViewSysfs),
		module("a!b", kmodquery.ViewSysfs),
	}
	want := []kmodquery.Module{all[0], all[1], toggling, module("a!b", kmodquery.ViewSysfs), memory}
	require.Equal(t, want, keepHidden(all, cheap))
}

// Sysfs replaces the slash in a name.
func TestNamesWithASlashAreOfOneModule(t *testing.T) {
	named := func(name string) kmodquery.Module {
		return kmodquery.Module{Name: name, Views: []string{kmodquery.ViewSysfs}}
	}
	renamed := difference{event: kmodquery.EventModuleUnwitnessed, module: named("new"), former: "a/b"}
	found := []difference{renamed, {event: kmodquery.EventModuleHidden, module: named("a!b")}}
	require.Equal(t, []difference{renamed}, withoutFormerNames(found))

	c := New(Options{Views: confirming{named("a/b")}})
	found, err := c.confirmOnce(t.Context(), []difference{{module: named("a!b")}, {module: named("c")}})
	require.NoError(t, err)
	require.Len(t, found, 1)

	s := NewState("")
	s.Add(kmodquery.Event{EventName: kmodquery.EventModuleHidden, Name: "a!b", TimeNanos: 1})
	s.Add(kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, Name: "a/b", TimeNanos: 2})
	require.Equal(t, "a/b", s.get("a!b").module.Name)
}

// confirming are views that confirm one module.
type confirming struct{ kmodquery.Module }

func (c confirming) Confirm(context.Context, []kmodquery.Module) ([]kmodquery.Module, error) {
	return []kmodquery.Module{c.Module}, nil
}

func (confirming) Listed(context.Context) ([]kmodquery.Module, error)  { return nil, nil }
func (confirming) Modules(context.Context) ([]kmodquery.Module, error) { return nil, nil }
func (confirming) Taint(context.Context) (int64, error)                { return 0, nil }
func (confirming) Shown() ([]string, string)                           { return nil, "" }
