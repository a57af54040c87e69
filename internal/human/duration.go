package human

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// Duration parses a time such as 10s, 1h30m, 7d or 1d12h. Its error says what to write.
func Duration(text string) (time.Duration, error) {
	invalid := errors.New("write a time with its unit, d, h, m or s, such as 7d or 10s")
	days, rest, hasDays := strings.Cut(text, "d")
	if !hasDays {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, invalid
		}
		return d, nil
	}
	n, err := strconv.ParseUint(days, 10, 32)
	if err != nil || n > uint64(math.MaxInt64/day) {
		return 0, invalid
	}
	var d time.Duration
	if rest != "" {
		if d, err = time.ParseDuration(rest); err != nil || d < 0 || d >= day {
			return 0, invalid
		}
	}
	if d += time.Duration(n) * day; d < 0 {
		return 0, invalid
	}
	return d, nil
}

// Format returns a time as Duration reads it, in days if it has no smaller part.
func Format(d time.Duration) string {
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return d.String()
}
