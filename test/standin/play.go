package standin

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	playSuffix = ".play" // beside the program: its play
	runsSuffix = ".runs" // beside the program: one byte per start
)

// A play directs a program, one step a line:
//
//	say TEXT      print a line to stderr
//	print TEXT    print a line
//	file NAME     print the lines of a file beside the program
//	begin TEXT    print TEXT without a line feed
//	fill COUNT    print COUNT bytes without a line feed
//	await NAME    wait for a file beside the program
//	mark NAME     create a file beside the program
//	stubborn      ignore SIGTERM, SIGINT and SIGHUP
//	leave         start a process that keeps stdout and stderr open until the
//	              program's file is removed
//	close         close stdout
//	stop          stop, as by kill -STOP
//	die           end, as by kill -KILL
//	exit STATUS   exit
//
// and the steps that the program adds. After the last step the program sleeps. A line
// --- separates the plays of successive starts. All later starts use the last one.
type play struct {
	program string
	steps   []string
}

func readPlay(program string) (*play, error) {
	runs, err := os.OpenFile(program+runsSuffix, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer runs.Close()
	if _, err := runs.WriteString("."); err != nil {
		return nil, err
	}
	info, err := runs.Stat()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(program + playSuffix)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(string(text), "---\n")
	part := parts[min(int(info.Size()), len(parts))-1]
	return &play{program, strings.Split(strings.TrimSpace(part), "\n")}, nil
}

// beside returns the path of a file beside the program.
func (p *play) beside(name string) string { return filepath.Join(filepath.Dir(p.program), name) }

// run follows the steps. more has the steps that the program adds.
func (p *play) run(out *output, more map[string]func(argument string) error) error {
	for _, step := range p.steps {
		verb, argument, _ := strings.Cut(step, " ")
		err := p.step(out, more, verb, argument)
		if err != nil {
			return fmt.Errorf("step %q: %w", step, err)
		}
	}
	time.Sleep(time.Hour)
	return nil
}

func (p *play) step(out *output, more map[string]func(string) error, verb, argument string) error {
	switch verb {
	case "", "#":
		return nil
	case "say":
		_, err := fmt.Fprintln(os.Stderr, argument)
		return err
	case "print":
		return out.write(argument + "\n")
	case "file":
		text, err := os.ReadFile(p.beside(argument))
		if err != nil {
			return err
		}
		return out.write(string(text))
	case "begin":
		return out.write(argument)
	case "fill":
		count, err := strconv.Atoi(argument)
		if err != nil {
			return err
		}
		return out.write(strings.Repeat("x", count))
	case "await":
		for {
			if _, err := os.Stat(p.beside(argument)); err == nil {
				return nil
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "mark":
		return os.WriteFile(p.beside(argument), nil, 0o600)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		return nil
	case "leave":
		left := exec.Command("sh", "-c", `while [ -e "$0" ]; do sleep 0.2; done`, p.program)
		left.Stdout, left.Stderr = os.Stdout, os.Stderr
		left.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return left.Start()
	case "close":
		return os.Stdout.Close()
	case "stop":
		return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "die":
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "exit":
		status, err := strconv.Atoi(argument)
		if err != nil {
			return err
		}
		out.flush()
		os.Exit(status)
	}
	if own := more[verb]; own != nil {
		return own(argument)
	}
	return fmt.Errorf("unknown step")
}
