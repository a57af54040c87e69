package standin

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// eslogger stands in for eslogger(1). Besides the steps of every play it has
//
//	flood COUNT   print COUNT records of loads
//
// eslogger prints no events of its own process group. The stand-in therefore prints
// nothing unless it leads a session of its own.
func eslogger(p *play) error {
	for _, event := range os.Args[1:] {
		if !slices.Contains([]string{"exec", "kextload", "kextunload"}, event) {
			return fmt.Errorf("Failed to parse event types: Unsupported event %s", event) //nolint:staticcheck // as eslogger prints it
		}
	}
	out := newOutput()
	if session, err := unix.Getsid(0); err != nil || session != os.Getpid() {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		os.Stdout = null
		out = newOutput()
	}
	return p.run(out, map[string]func(string) error{
		"flood": func(argument string) error {
			count, err := strconv.Atoi(argument)
			for i := 0; i < count && err == nil; i++ {
				err = out.write(EsloggerRecord(fmt.Sprintf("com.example.driver%d", i), i) + "\n")
			}
			return err
		},
	})
}

// esloggerRecord has the format of macOS 15.
const esloggerRecord = `{"schema_version":1,"mach_time":NUMBER,"event_type":17,"thread":{"thread_id":2841},` +
	`"seq_num":NUMBER,"global_seq_num":NUMBER,"version":9,"action_type":1,` +
	`"action":{"result":{"result":{"auth":0},"result_type":0}},"event":{"kextload":{"identifier":"IDENTIFIER"}},` +
	`"process":{"audit_token":{"pid":212,"euid":0,"ruid":0,"rgid":0,"egid":0,"auid":4294967295,"asid":100000,"pidversion":441},` +
	`"ppid":1,"original_ppid":1,"signing_id":"com.apple.kernelmanagerd","team_id":null,"is_platform_binary":true,` +
	`"executable":{"path":"\/usr\/libexec\/kernelmanagerd","path_truncated":false}},"time":"TIME"}`

// EsloggerRecord returns a line as eslogger prints it: the load of a kernel extension at
// the current time, with the number as its global_seq_num.
func EsloggerRecord(identifier string, number int) string {
	return strings.NewReplacer(
		"NUMBER", strconv.Itoa(number),
		"IDENTIFIER", identifier,
		"TIME", time.Now().UTC().Format("2006-01-02T15:04:05.000000000Z"),
	).Replace(esloggerRecord)
}
