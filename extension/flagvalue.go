package main

import (
	"errors"
	"strconv"
	"time"
)

// A timeValue is the value of a flag that takes a time. Its errors say how to write one.
type timeValue time.Duration

// duration returns the value of a flag that sets d, and sets its default.
func duration(d *time.Duration, value time.Duration) *timeValue {
	*d = value
	return (*timeValue)(d)
}

func (v *timeValue) String() string { return time.Duration(*v).String() }

func (v *timeValue) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("write a time with its unit, h, m or s, such as 10s; a day is 24h")
	}
	*v = timeValue(d)
	return nil
}

// A numberValue is the value of a flag that takes a whole number, likewise.
type numberValue int64

func number(n *int64, value int64) *numberValue {
	*n = value
	return (*numberValue)(n)
}

func (v *numberValue) String() string { return strconv.FormatInt(int64(*v), 10) }

func (v *numberValue) Set(text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return errors.New("write a whole number without a unit, such as 1000000")
	}
	*v = numberValue(n)
	return nil
}
