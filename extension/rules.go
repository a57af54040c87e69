package main

import (
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/rules"
	"github.com/kmodquery/kmodquery/tables/signatures"
)

// openRules reads the rules and the expectations of the settings. report is told of each mistake in them; it may be
// nil.
func openRules(c *config, report func(error)) *rules.Folders {
	return rules.Open(rules.Options{
		Rules:            c.rulesDir,
		IsOptional:       c.rulesDir == defaultRulesDir,
		Expectations:     c.expectDir,
		IsExpectOptional: c.expectDir == defaultExpectDir,
		Columns:          tables.RuleColumns(),
		Signatures:       signatures.All(),
		Report:           report,
	})
}
