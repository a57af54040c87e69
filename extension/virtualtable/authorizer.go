package virtualtable

import (
	"slices"
	"strings"

	"modernc.org/sqlite"
)

// allowed are the actions that osquery allows in queries (osquery/sql/sqlite_util.h),
// without the creation and removal of virtual tables. ATTACH is not allowed, so that no
// query can open a file.
var allowed = []sqlite.AuthorizerActionCode{
	sqlite.AuthRead,
	sqlite.AuthSelect,
	sqlite.AuthInsert,
	sqlite.AuthUpdate,
	sqlite.AuthDelete,
	sqlite.AuthCreateView,
	sqlite.AuthDropView,
	sqlite.AuthCreateTable,
	sqlite.AuthDropTable,
	sqlite.AuthCreateTempTable,
	sqlite.AuthDropTempTable,
	sqlite.AuthCreateTempView,
	sqlite.AuthDropTempView,
	sqlite.AuthFunction,
	sqlite.AuthRecursive,
	sqlite.AuthTransaction,
	sqlite.AuthSavepoint,
}

var allowedPragmas = []string{
	"case_sensitive_like",
	"collation_list",
	"function_list",
	"journal_mode",
	"table_info",
	"table_xinfo",
}

func authorize(action sqlite.AuthorizerActionCode, arg, _, _, _ string) sqlite.AuthorizerReturnCode {
	if slices.Contains(allowed, action) ||
		action == sqlite.AuthPragma && slices.Contains(allowedPragmas, strings.ToLower(arg)) {
		return sqlite.AuthorizerOK
	}
	return sqlite.AuthorizerDeny
}
