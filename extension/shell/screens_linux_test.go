package shell

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestHelpAsPublished(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, Query(t.Context(), open(t), &out, Table, ".help"))
	requireGolden(t, "help", out.String())
	guide, err := os.ReadFile("../../docs/shell.md")
	require.NoError(t, err)
	commands, _, _ := strings.Cut(out.String(), "Anything else")
	require.Contains(t, string(guide), "```\n"+commands+"```\n")
}

const (
	loads = `SELECT 1 AS id, 'loaded' AS outcome, 'dummy' AS name, '/usr/lib/modules/6.12.0/kernel/drivers/net/dummy.ko.xz' AS path, NULL AS signer
		UNION ALL SELECT 2, 'refused', '日本' || char(27) || '[2J', '/tmp/' || char(10) || '| 3  | loaded  | forged', 'Build key'`
	manyColumns = `SELECT 'first' AS a, 'second' AS b, 'third' AS c, 'fourth' AS d, 'fifth' AS e, 'sixth' AS f, 'seventh' AS g, 'eighth one' AS h,
		'ninth one' AS i, 'tenth one' AS j, printf('%.90c', 'k') AS long_column`
)

var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)

// answerOf enters a line and returns what the shell shows up to the next prompt.
func (x *terminal) answerOf(line string) string {
	x.t.Helper()
	x.enter(strings.Join(strings.Fields(line), " ") + "\r")
	x.await("\n") // the end of the line that is edited
	buffer := make([]byte, 4096)
	for !strings.Contains(x.seen, promptFirst) {
		n, err := x.file.Read(buffer)
		require.NoError(x.t, err, "saw %q", x.seen)
		x.seen += string(buffer[:n])
	}
	answer, _, _ := strings.Cut(x.seen, promptFirst)
	x.awaitPrompt(promptFirst)
	return strings.ReplaceAll(escapes.ReplaceAllString(answer, ""), "\r\n", "\n")
}

func TestScreensAsPublished(t *testing.T) {
	for _, columns := range []uint16{80, 120, 200} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			person, shell := start(t, filepath.Join(t.TempDir(), "history"))
			require.NoError(t, unix.IoctlSetWinsize(int(person.file.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
			person.awaitPrompt(promptFirst)
			var screen strings.Builder
			for _, line := range []string{
				"CREATE TEMP VIEW loads AS " + loads + ";", "CREATE TEMP VIEW many AS " + manyColumns + ";",
				".all loads", ".nullvalue -", ".mode line", ".all loads", ".mode table", ".all many", "SELECT * FROM many WHERE 0;",
				".mode json", "SELECT id, signer FROM loads;", ".mode csv", ".headers off", "SELECT id, signer FROM loads;",
				".tables", ".schema events", ".show", "SELECT pth FROM loads;", ".tabels",
			} {
				screen.WriteString("> " + strings.Join(strings.Fields(line), " ") + "\n" + person.answerOf(line))
			}
			person.enter("\x04")
			person.await("ended: <nil>")
			require.NoError(t, shell.Wait())
			for line := range strings.Lines(screen.String()) {
				if !strings.HasPrefix(line, "> ") && !strings.HasPrefix(line, "error: ") && !strings.HasPrefix(line, "CREATE") {
					require.LessOrEqual(t, widthOf(strings.TrimSuffix(line, "\n")), int(columns), "%q", line)
				}
			}
			requireGolden(t, fmt.Sprintf("screen_%d", columns), screen.String())
		})
	}
}

func TestTabCompletesNames(t *testing.T) {
	person, shell := start(t, filepath.Join(t.TempDir(), "history"))
	person.awaitPrompt(promptFirst)
	person.enter("SEL\t")
	person.await("SELECT")
	person.enter("\t6*7 AS answer;\r")
	person.await("| 42 ")
	person.awaitPrompt(promptFirst)
	person.enter(".sch\t")
	person.await(".schema")
	person.enter(" ev\t")
	person.await(".schema events")
	person.enter("\r")
	person.await("time BIGINT")
	person.awaitPrompt(promptFirst)
	person.enter("\x04")
	person.await("ended: <nil>")
	require.NoError(t, shell.Wait())
}
