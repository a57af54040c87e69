package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/rules"
	"github.com/kmodquery/kmodquery/tables/signatures"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// shownNames bounds the names of modules in one line of the command expect.
const shownNames = 8

// expect runs a command that reads what the store has seen.
func expect(ctx context.Context, c *config, f files, of func(past tables.Config) error) (err error) {
	if _, err := os.Stat(c.stateDir); err != nil {
		return fmt.Errorf("open event store: %w; nothing was recorded there", err)
	}
	store, err := sqlite.Open(ctx, c.stateDir, sqlite.Options{Report: func(err error) { f.report.Print(err) }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	past := tables.Config{Store: store, Signatures: signatures.All(), Rules: openRules(c, func(err error) { f.report.Print(err) }).RuleSet}
	return of(past)
}

// expectLearn runs the command expect learn.
func expectLearn(ctx context.Context, c *config, f files) error {
	return expect(ctx, c, f, func(past tables.Config) error { return learnExpectations(ctx, past, c.args, f.stdout, f.stderr) })
}

// expectCheck runs the command expect check.
func expectCheck(ctx context.Context, c *config, f files) error {
	return expect(ctx, c, f, func(past tables.Config) error { return checkExpectations(ctx, c, past, f.stdout) })
}

// learnExpectations writes expectations of what the store has seen into a file, or to stdout. It
// says what it took and what it left out, in the latter case on stderr.
func learnExpectations(ctx context.Context, past tables.Config, files []string, stdout, stderr io.Writer) error {
	learner := rules.NewLearner()
	err := tables.EachFinding(ctx, past, rules.LearnColumns, func(f *kmodquery.Finding) error {
		learner.AddFinding(f)
		return nil
	})
	if err != nil {
		return err
	}
	closings := kmodquery.Filter{Columns: []string{"load_id", "raw"}, Conditions: []kmodquery.Condition{{
		Column: "event_name", Op: kmodquery.Equal, Values: []any{kmodquery.EventLoadClosed, kmodquery.EventLoadClosedUnprivileged},
	}}}
	err = past.Store.EventsBetween(ctx, 0, math.MaxInt64, closings, func(e *kmodquery.Event) error {
		learner.AddClosing(e)
		return nil
	})
	if err != nil {
		return err
	}
	learned := learner.Learn()
	comment := fmt.Sprintf("Written by kmodquery.ext expect learn at %s from %d loads. Review each entry.", time.Now().UTC().Format(time.DateTime), learned.Taken)
	content, err := rules.Format(comment, learned.Entries)
	if err != nil {
		return err
	}
	said := stdout
	if len(files) == 0 {
		said = stderr
		if _, err := stdout.Write(content); err != nil {
			return err
		}
	} else if err := writeNew(files[0], content); err != nil {
		return err
	}
	describeLearned(said, learned)
	return nil
}

// writeNew writes a file that does not exist yet.
func writeNew(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}

func describeLearned(w io.Writer, learned rules.Learned) {
	fmt.Fprintf(w, "took %s into %s\n", several(learned.Taken, "load", "s"), several(len(learned.Entries), "entr", "ies"))
	for _, e := range learned.Entries {
		how := "by the signer " + strings.Join(e.Signers, ", ")
		if len(e.Hashes) > 0 {
			how = "by " + several(len(e.Hashes), "hash", "es")
		}
		fmt.Fprintf(w, "  %s, %s, loaded by %s\n", some(e.Modules), kmodquery.Printable(how), cmp.Or(some(e.Loaders), "any program"))
	}
	for _, why := range slices.Sorted(maps.Keys(learned.LeftOut)) {
		names := learned.LeftOut[why]
		distinct := slices.Compact(slices.Sorted(slices.Values(names)))
		fmt.Fprintf(w, "left out %s (%s): %s\n", several(len(names), "load", "s"), kmodquery.Printable(why), some(slices.DeleteFunc(distinct, func(n string) bool { return n == "" })))
	}
}

// several returns a number of things, whose name has an ending for more than one.
func several(n int, thing, ending string) string {
	switch {
	case n == 1 && ending == "ies":
		return "1 " + thing + "y"
	case n == 1:
		return "1 " + thing
	}
	return fmt.Sprintf("%d %s%s", n, thing, ending)
}

// some returns the first names.
func some(names []string) string {
	text := strings.Join(names[:min(len(names), shownNames)], ", ")
	if more := len(names) - shownNames; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return kmodquery.Printable(text)
}

// changedFindings are the findings of one signature that a change of the expectations changes in
// the same way.
type changedFindings struct {
	id       string
	severity int64
	by       string // the entry; "" if they are expected no longer
	n        int
	names    map[string]bool
}

// checkExpectations says which findings of the stored past a file of expectations changes.
func checkExpectations(ctx context.Context, c *config, past tables.Config, stdout io.Writer) error {
	before, after, err := rules.Change(c.expectDir, c.expectDir == defaultExpectDir, c.args[0])
	if err != nil {
		return err
	}
	set := past.Rules()
	past.Rules = func() kmodquery.RuleSet { return kmodquery.RuleSet{Rules: set.Rules} } // with their own severities
	met := func(expected func(*kmodquery.Finding) string, f *kmodquery.Finding) string {
		if expected == nil {
			return ""
		}
		return expected(f)
	}
	all, changes := 0, map[string]*changedFindings{}
	err = tables.EachFinding(ctx, past, rules.LearnColumns, func(f *kmodquery.Finding) error {
		all++
		was, is := met(before, f), met(after, f)
		if (was == "") == (is == "") {
			return nil
		}
		key := f.ID + " " + is
		if changes[key] == nil {
			changes[key] = &changedFindings{id: f.ID, severity: f.Severity, by: is, names: map[string]bool{}}
		}
		changes[key].n++
		if name := kmodquery.Escape(f.Event.Name); len(changes[key].names) < maxNames {
			changes[key].names[name] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		_, err := fmt.Fprintf(stdout, "no severity changes among the %s in the store\n", several(all, "finding", "s"))
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		change := changes[key]
		what := fmt.Sprintf("severity %d becomes 0 by %s", change.severity, change.by)
		if change.by == "" {
			what = fmt.Sprintf("severity 0 becomes %d, because nothing expects them any more", change.severity)
		}
		fmt.Fprintf(stdout, "%s: %s of %s: %s\n", change.id, several(change.n, "finding", "s"), some(slices.Sorted(maps.Keys(change.names))), kmodquery.Printable(what))
	}
	_, err = fmt.Fprintf(stdout, "findings in the store: %d\n", all)
	return err
}

// maxNames bounds the names of modules that the command expect remembers of one line.
const maxNames = 1024
