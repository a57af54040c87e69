package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	osquery "github.com/osquery/osquery-go"
	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery/internal/trusted"
)

// maxUsers bounds the file of users, in bytes.
const maxUsers = 4 << 20

// withCoreTables adds those tables of osquery to plugins that the queries of the packs
// and of most users join, with the columns that they use. Under osquery its own are there.
func withCoreTables(plugins []osquery.OsqueryPlugin) []osquery.OsqueryPlugin {
	registry := []map[string]string{}
	all := append(slices.Clone(plugins),
		coreTable("osquery_registry", func() ([]map[string]string, error) { return registry, nil },
			table.TextColumn("registry"), table.TextColumn("name"), table.IntegerColumn("internal"), table.IntegerColumn("active")),
		coreTable("time", timeRow, table.BigIntColumn("unix_time"), table.TextColumn("iso_8601"), table.TextColumn("datetime"), table.TextColumn("timezone")),
		coreTable("users", userRows, table.BigIntColumn("uid"), table.BigIntColumn("gid"), table.TextColumn("username"),
			table.TextColumn("description"), table.TextColumn("directory"), table.TextColumn("shell")))
	for _, plugin := range all {
		registry = append(registry, map[string]string{"registry": "table", "name": plugin.Name(), "internal": "0", "active": "1"})
	}
	return all
}

func coreTable(name string, rows func() ([]map[string]string, error), columns ...table.ColumnDefinition) *table.Plugin {
	return table.NewPlugin(name, columns, func(context.Context, table.QueryContext) ([]map[string]string, error) { return rows() })
}

func timeRow() ([]map[string]string, error) {
	now := time.Now().UTC()
	text := now.Format(time.RFC3339)
	return []map[string]string{{"unix_time": strconv.FormatInt(now.Unix(), 10), "iso_8601": text, "datetime": text, "timezone": "UTC"}}, nil
}

// userRows returns the users of /etc/passwd. On macOS these are the system's.
func userRows() ([]map[string]string, error) {
	file, err := trusted.Open("/etc/passwd")
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxUsers))
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	return parseUsers(string(content)), nil
}

// parseUsers leaves out lines that are no user's.
func parseUsers(passwd string) (rows []map[string]string) {
	for line := range strings.Lines(passwd) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(fields) != 7 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		rows = append(rows, map[string]string{
			"username": fields[0], "uid": fields[2], "gid": fields[3], "description": fields[4], "directory": fields[5], "shell": fields[6],
		})
	}
	return rows
}
