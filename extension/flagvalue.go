package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"github.com/kmodquery/kmodquery/internal/human"
)

// A timeValue is the value of a flag that takes a time. Its errors say what to write.
type timeValue struct {
	to    *time.Duration
	least time.Duration
}

// duration returns the value of a flag that sets d, and sets its default.
func duration(d *time.Duration, value, least time.Duration) *timeValue {
	*d = value
	return &timeValue{d, least}
}

// String is also called on the zero value.
func (v *timeValue) String() string {
	if v.to == nil {
		return ""
	}
	return human.Format(*v.to)
}

// Type is empty: the usage of each flag names its value.
func (*timeValue) Type() string { return "" }

func (v *timeValue) Set(text string) error {
	d, err := human.Duration(text)
	if err != nil {
		return err
	}
	if d < v.least {
		return fmt.Errorf("write a time of %v or more", v.least)
	}
	*v.to = d
	return nil
}

// A numberValue is the value of a flag that takes a whole number within bounds.
type numberValue struct {
	to          *int64
	least, most int64
}

func number(n *int64, value, least, most int64) *numberValue {
	*n = value
	return &numberValue{n, least, most}
}

const unlimited = math.MaxInt64

func (v *numberValue) String() string {
	if v.to == nil {
		return ""
	}
	return strconv.FormatInt(*v.to, 10)
}

// Type is empty: the usage of each flag names its value.
func (*numberValue) Type() string { return "" }

func (v *numberValue) Set(text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return errors.New("write a whole number without a unit, such as 1000000")
	case n < v.least:
		return fmt.Errorf("write a number of %d or more", v.least)
	case n > v.most:
		return fmt.Errorf("write a number of %d or less", v.most)
	}
	*v.to = n
	return nil
}

// An absolutePath is the value of a flag that takes a path from the root.
type absolutePath struct{ path *string }

func (p absolutePath) String() string {
	if p.path == nil {
		return ""
	}
	return *p.path
}

// Type is empty: the usage of each flag names its value.
func (absolutePath) Type() string { return "" }

func (p absolutePath) Set(text string) error {
	if !filepath.IsAbs(text) {
		return errors.New("write an absolute path")
	}
	*p.path = text
	return nil
}
