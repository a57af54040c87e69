//go:build linux

package report

import (
	"bytes"
	"context"
	"encoding/json"
	"html"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/suite"
)

// TestPageInABrowser looks at the page in Chromium. As root it installs Debian's package.
func TestPageInABrowser(t *testing.T) {
	if !suite.Long() {
		t.Skip("part of make test-long")
	}
	chromium := findChromium(t)
	host, events := week()
	dir := t.TempDir()
	page := newPage(t, host, 0, events...)
	path := filepath.Join(dir, "report.html")
	require.NoError(t, os.WriteFile(path, []byte(page), 0o644))

	for _, width := range []int{390, 1280} {
		seen := measure(t, chromium, dir, page, width)
		require.LessOrEqual(t, seen.ScrollWidth, width, "the page is wider than the window")
		require.Zero(t, seen.Resources, "the page fetched something")
		require.Equal(t, "#content", seen.First, "the skip link comes first")
		require.Equal(t, seen.Scrollable, seen.Regions, "each part that scrolls can be reached with the keyboard")
		require.GreaterOrEqual(t, seen.Contrast, 4.5, "text that is hard to read: %s", seen.Worst)
	}

	screenshot := filepath.Join(dir, "report.png")
	run(t, chromium, dir, "--hide-scrollbars", "--window-size=1280,1000", "--screenshot="+screenshot, "file://"+path)
	file, err := os.Open(screenshot)
	require.NoError(t, err)
	defer file.Close()
	shown, err := png.Decode(file)
	require.NoError(t, err)
	colours := map[[3]uint32]bool{}
	for y := range 1000 {
		for x := range 1280 {
			r, g, b, _ := shown.At(x, y).RGBA()
			colours[[3]uint32{r, g, b}] = true
		}
	}
	require.Greater(t, len(colours), 50, "the page is blank")

	printed := filepath.Join(dir, "report.pdf")
	run(t, chromium, dir, "--no-pdf-header-footer", "--print-to-pdf="+printed, "file://"+path)
	document, err := os.ReadFile(printed)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(document, []byte("%PDF-")))
	require.Greater(t, bytes.Count(document, []byte("/Type /Page\n")), 1, "it has several pages")
}

// What the browser measured.
type measured struct {
	ScrollWidth, Resources, Scrollable, Regions int
	First, Worst                                string
	Contrast                                    float64 // the least of a text and what is behind it
}

// measure shows the page in a frame, and measures it by a script around that. The page itself
// runs none.
func measure(t *testing.T, chromium, dir, page string, width int) (m measured) {
	t.Helper()
	const script = `
const frame = document.querySelector('iframe');
frame.onload = () => {
  const d = frame.contentDocument, w = frame.contentWindow;
  const light = c => { const [r, g, b] = c.match(/[\d.]+/g).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = w.getComputedStyle(e).backgroundColor; if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
  let contrast = 21, worst = '';
  for (const e of d.body.querySelectorAll('*')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const a = light(w.getComputedStyle(e).color), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < contrast) { contrast = ratio; worst = e.outerHTML.slice(0, 80); }
  }
  const scrollable = [...d.querySelectorAll('*')].filter(e => ['auto', 'scroll'].includes(w.getComputedStyle(e).overflowX));
  document.body.textContent = JSON.stringify({
    ScrollWidth: d.documentElement.scrollWidth, Resources: w.performance.getEntriesByType('resource').length,
    Scrollable: scrollable.length, Regions: scrollable.filter(e => e.tabIndex === 0).length,
    First: d.querySelector('a[href], [tabindex="0"]').getAttribute('href'), Contrast: contrast, Worst: worst});
};
frame.srcdoc = document.querySelector('textarea').value;`
	wrapper := filepath.Join(dir, "wrapper"+strconv.Itoa(width)+".html")
	require.NoError(t, os.WriteFile(wrapper, []byte(`<!DOCTYPE html><meta charset="utf-8"><body><textarea hidden>`+html.EscapeString(page)+
		`</textarea><iframe style="border:0" width="`+strconv.Itoa(width)+`" height="900"></iframe><script>`+script+`</script>`), 0o644))
	out := run(t, chromium, dir, "--virtual-time-budget=5000", "--window-size=1400,1000", "--dump-dom", "file://"+wrapper)
	_, text, found := strings.Cut(out, "<body>")
	require.True(t, found, out)
	text, _, _ = strings.Cut(text, "</body>")
	require.NoError(t, json.Unmarshal([]byte(html.UnescapeString(text)), &m), text)
	return m
}

func run(t *testing.T, chromium, dir string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	arguments = append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + filepath.Join(dir, "profile"), "--host-resolver-rules=MAP * ~NOTFOUND"}, arguments...)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, chromium, arguments...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return string(out)
}

// findChromium returns the program, which it installs as root if the host lacks it.
func findChromium(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err == nil {
		return path
	}
	if os.Geteuid() != 0 {
		t.Fatal("missing Debian packages: run as root: apt-get install chromium fonts-dejavu-core")
	}
	for _, arguments := range [][]string{
		{"update", "-q"},
		{"install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "chromium", "fonts-dejavu-core"},
	} {
		out, err := exec.CommandContext(t.Context(), "apt-get", arguments...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	path, err = exec.LookPath("chromium")
	require.NoError(t, err)
	return path
}
