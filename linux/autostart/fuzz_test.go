//go:build linux

package autostart

import (
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzModprobe(f *testing.F) {
	f.Add([]byte("alias a-b c-d\nblacklist x # y\noptions a  b=1 \\\n c\ninstall *a /bin/sh -c x\nsoftdep a pre: b post: c\nremove a b\n"))
	f.Add([]byte("#\n\\\n \t\nalias [a-] b\nalias a]\n\x00options\noptions a\\"))
	f.Fuzz(func(t *testing.T, data []byte) {
		last := int64(0)
		parseModprobe(data, func(d directive) bool {
			require.Greater(t, d.line, last)
			last = d.line
			require.NotEmpty(t, d.command)
			require.NotContains(t, d.text, "\n")
			require.Contains(t, d.text, d.command)
			if d.isValid {
				require.NotContains(t, d.subject, " ")
			}
			for _, dependency := range parseSoftdep(d.rest) {
				require.Contains(t, d.rest, dependency.name)
			}
			return true
		})
		require.LessOrEqual(t, last, int64(strings.Count(string(data), "\n")+1))
	})
}

func FuzzModulesLoad(f *testing.F) {
	f.Add([]byte("loop\n# a\n; b\n\n  snd-pcm \r\n\x00x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parseModulesLoad(data, func(number int64, name string) bool {
			require.NotEmpty(t, strings.TrimSpace(strings.Trim(name, "\v\f\u0085\u00a0"))+"x")
			require.Contains(t, strings.Split(string(data), "\n")[number-1], name)
			return true
		})
	})
}

func FuzzCmdline(f *testing.F) {
	f.Add(`quiet modules_load=a,b rd.modules_load="c" snd-pcm.x="1 2" "hid.y=a b" modprobe.blacklist=a -- x`)
	f.Add(`"" = . .= a.b.c "a"b.c=1`)
	f.Fuzz(func(t *testing.T, line string) {
		for _, p := range parseCmdline(line) {
			require.Contains(t, line, p.text)
		}
		for _, o := range parseOptions(line) {
			require.Contains(t, line, o.text)
			require.Contains(t, o.text, o.name+".")
		}
	})
}

// matches is fnmatch by the definition.
func matches(pattern, name string) bool {
	if pattern == "" {
		return name == ""
	}
	if pattern[0] == '*' {
		return matches(pattern[1:], name) || name != "" && matches(pattern, name[1:])
	}
	if name == "" {
		return false
	}
	width, ok := matchOne(pattern, name[0])
	return ok && matches(pattern[width:], name[1:])
}

func FuzzFnmatch(f *testing.F) {
	for pattern, name := range map[string]string{"a*b?c": "axxbyc", "[a-c]*": "b", "[!a]": "b", `\*`: "*", "[": "[", "*[]]": "x]", "a[b-": "a[b-"} {
		f.Add(pattern, name)
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 12 || len(name) > 12 {
			return
		}
		require.Equal(t, matches(pattern, name), fnmatch(pattern, name))
		// Without special characters path.Match agrees.
		if want, err := path.Match(pattern, name); err == nil && !strings.ContainsAny(pattern+name, `/[\`) && isASCII(pattern+name) {
			require.Equal(t, want, fnmatch(pattern, name))
		}
		if fnmatch(pattern, name) {
			require.True(t, strings.HasPrefix(name, literal(pattern)))
		}
	})
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 128 }) < 0
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(encodeIndex(map[string]string{"snd_pcm": "kernel/snd-pcm.ko: kernel/snd.ko", "loop": "kernel/loop.ko:", "": "x"})))
	f.Add([]byte("\xb0\x07\xf4\x57\x00\x02\x00\x01\x20\x00\x00\x0ca\x01\x20\x00\x00\x0c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		room := maxKeys
		keys, err := parseIndex(data, &room)
		if len(data) < 12 {
			require.Error(t, err)
		}
		size := 0
		for key, values := range keys {
			for _, value := range values {
				size += len(key) + len(value)
				require.NotContains(t, value, "\x00")
			}
		}
		require.LessOrEqual(t, size, maxKeys)
	})
}

func FuzzRules(f *testing.F) {
	f.Add([]byte("# c\nACTION==\"add\", RUN{program}+=\"/bin/sh -c 'x'\", \\\n RUN+=e\"\\\"\"\nENV{a b}=\"x\"\n"))
	f.Add([]byte("RUN{\nRUN+=\"x\nRUN=i\"x\"\\"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parseRules(data, func(a assignment) bool {
			require.NotEmpty(t, a.key)
			require.NotEmpty(t, a.op)
			require.Contains(t, a.text, a.key)
			require.LessOrEqual(t, len(a.value), len(a.text))
			require.LessOrEqual(t, a.number, int64(strings.Count(string(data), "\n")+1))
			return true
		})
	})
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte("# x\n-kernel.modprobe = /x\nkernel/modprobe=\nkernel.mod*=y\nkernel.modprobe\n"))
	f.Add([]byte("add_drivers+=\" a b \" # c\nforce_drivers='x'\nloop max=1\nkernel/a.ko: kernel/b.ko\n"))
	f.Add([]byte("ExecStart=/sbin/insmod x\n\tlinux /vmlinuz quiet\nGRUB_CMDLINE_LINUX=\"a.b=1\"\noptions x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text := string(data)
		parseSysctl(data, func(s setting) {
			require.Contains(t, text, s.text)
			require.Contains(t, s.text, s.value)
		})
		parseDracut(data, func(_ int64, line, key, item string) bool {
			require.Contains(t, line, item)
			return strings.HasPrefix(line, key)
		})
		parseProgram(data, func(_ int64, line string) bool {
			require.Contains(t, text, line)
			return true
		})
		for _, name := range []string{"cmdline", "grub"} {
			parseBootloader(name, data, func(_ int64, line, cmdline string) bool {
				require.Contains(t, text, line)
				require.Contains(t, line, cmdline)
				return true
			})
		}
		parseList(data, func(_ int64, line, name, options string) bool {
			require.NotEmpty(t, name)
			require.Contains(t, line, options)
			return true
		})
		for name, line := range parseDep(data) {
			require.NotContains(t, name, "-")
			require.Contains(t, text, line)
		}
	})
}
