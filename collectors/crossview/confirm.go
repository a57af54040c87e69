package crossview

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// recheckDelay separates a finding from the first recheck. Sync is not called
	// for it, because it would make the sources report a load in progress with less
	// information than they could collect.
	recheckDelay = time.Second
	// rechecks is how many rechecks, recheckInterval apart, must all show a
	// difference. A module that is loaded and unloaded repeatedly is in an
	// intermediate state in some of them, but not in all.
	rechecks        = 8
	recheckInterval = 600 * time.Millisecond
	// confirmDelay separates the two confirmations of a hidden module.
	confirmDelay = 2 * time.Second
	// startDelay gives the sources time to report the modules loaded at the start.
	startDelay = 500 * time.Millisecond
	// memoryDelay separates the two confirmations of nameless memory: the kernel
	// frees a module's memory late.
	memoryDelay = 10 * time.Second
)

// recheck returns the differences that remain after the sources have reported
// all they saw, and some time later.
func (c *Check) recheck(ctx context.Context, found []difference) ([]difference, error) {
	if c.checkedAt.IsZero() && !slices.ContainsFunc(found, func(d difference) bool { return d.event != kmodquery.EventModulePresent }) {
		// A module that is loaded at the start needs no proof. But it may have been
		// loaded just now, or while no recorder ran, and a source may still report
		// it. An error of Sync is ignored, so that a source that does not answer
		// does not delay the report further.
		found, err := c.checkAgain(ctx, found, 1, startDelay)
		if err != nil || len(found) == 0 {
			return nil, err
		}
		_ = c.Sync(ctx)
		c.loop.Round()
		return c.checkAgain(ctx, found, 1, 0)
	}
	if err := c.pause(ctx, recheckDelay); err != nil {
		return nil, err
	}
	byViews := slices.DeleteFunc(slices.Clone(found), func(d difference) bool { return !d.isByViews() })
	others := slices.DeleteFunc(found, func(d difference) bool { return d.isByViews() })
	others, err := c.checkAgain(ctx, others, rechecks, recheckInterval)
	if err != nil {
		return nil, err
	}
	if len(others) > 0 {
		// Sync comes last, because it makes a source report events that it holds
		// back, such as while it reads a large image.
		if err := c.Sync(ctx); err != nil {
			return nil, fmt.Errorf("wait for the sources: %w", err)
		}
		c.loop.Round()
		if others, err = c.checkAgain(ctx, others, 1, 0); err != nil {
			return nil, err
		}
	}
	byViews, err = c.confirm(ctx, byViews)
	return append(others, byViews...), err
}

// checkAgain returns the differences that every one of n rechecks finds.
func (c *Check) checkAgain(ctx context.Context, found []difference, n int, interval time.Duration) ([]difference, error) {
	for i := 0; i < n && len(found) > 0; i++ {
		if err := c.pause(ctx, interval); err != nil {
			return nil, err
		}
		c.seen = c.Stamp()
		shown, err := c.Views.Listed(ctx)
		if err != nil {
			return nil, err
		}
		taint, err := c.Views.Taint(ctx)
		if err != nil {
			return nil, err
		}
		again := map[string]bool{}
		for _, d := range c.compare(shown, taint) {
			again[d.key()] = true
		}
		found = slices.DeleteFunc(found, func(d difference) bool { return !again[d.key()] })
		for i := range found {
			found[i].seen = c.seen
		}
	}
	return found, nil
}

// confirm returns the modules that are hidden beyond doubt, of those that views
// alone show: confirmed twice, without a load or an unload of the name between. A
// module that is loaded and unloaded all the time may look hidden once.
func (c *Check) confirm(ctx context.Context, found []difference) ([]difference, error) {
	before := map[string]entry{}
	for _, d := range found {
		before[d.module.Name] = c.State.get(d.module.Name)
	}
	found, err := c.confirmOnce(ctx, found)
	if err != nil || len(found) == 0 {
		return found, err
	}
	delay := confirmDelay
	if slices.ContainsFunc(found, func(d difference) bool { return d.module.Name == "" }) {
		delay = memoryDelay
	}
	if err := c.pause(ctx, delay); err != nil {
		return nil, err
	}
	// The module may have been loaded after c.seen was set. The event must carry a later
	// time, or it would refer to the previous module of this name.
	c.seen = c.Stamp()
	if found, err = c.confirmOnce(ctx, found); err != nil || len(found) == 0 {
		return found, err
	}
	for i := range found {
		found[i].seen = c.seen
	}
	if err := c.pause(ctx, confirmDelay); err != nil { // for the events of that time to arrive
		return nil, err
	}
	return slices.DeleteFunc(found, func(d difference) bool {
		now, then := c.State.get(d.module.Name), before[d.module.Name]
		return now.isReported() || d.module.Name != "" && (now.loaded.isAfter(then.loaded) || now.unloaded.isAfter(then.unloaded))
	}), nil
}

func (c *Check) confirmOnce(ctx context.Context, found []difference) ([]difference, error) {
	if len(found) == 0 {
		return nil, nil
	}
	suspects := make([]kmodquery.Module, len(found))
	for i, d := range found {
		suspects[i] = d.module
	}
	confirmed, err := c.Views.Confirm(ctx, suspects)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(d difference) bool {
		return !slices.ContainsFunc(confirmed, func(m kmodquery.Module) bool {
			return kmodquery.FolderName(m.Name) == kmodquery.FolderName(d.module.Name) && (m.Name != "" || memoryKey(&m) == memoryKey(&d.module))
		})
	}), nil
}

// pause waits, and glances meanwhile.
func (c *Check) pause(ctx context.Context, d time.Duration) error {
	over := time.After(d)
	for {
		c.loop.Round()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			return nil
		case <-c.glanceTimer.C:
			_ = c.glance(ctx) // the check that waits has the same error
		}
	}
}
