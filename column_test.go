package kmodquery

import (
	"reflect"
	"testing"
)

func TestEventColumnsAreTheFieldsOfTheStruct(t *testing.T) {
	columns := EventColumns()
	if got := reflect.TypeFor[Event]().NumField(); got != len(columns) {
		t.Fatalf("%d columns for %d fields", len(columns), got)
	}
	seen := map[string]bool{}
	for _, c := range columns {
		if c.Name == "" || seen[c.Name] {
			t.Errorf("column %q is empty or occurs twice", c.Name)
		}
		seen[c.Name] = true
		if found, ok := EventColumn(c.Name); !ok || found != c {
			t.Errorf("EventColumn(%q) = %v, %v", c.Name, found, ok)
		}
	}
	if _, ok := EventColumn("rowid"); ok {
		t.Error("found a column that no event has")
	}
}

func TestColumnReadsAndWritesItsField(t *testing.T) {
	for _, c := range EventColumns() {
		var e Event
		empty := c.Value(&e)
		if c.Number {
			if n, isKnown := c.Int(&e); n != 0 || isKnown != (empty != nil) {
				t.Errorf("%s: %v is %d, %t", c.Name, empty, n, isKnown)
			}
		} else if text, isKnown := c.Text(&e); text != "" || isKnown {
			t.Errorf("%s: nothing is %q, %t", c.Name, text, isKnown)
		}
		switch pointer := c.Pointer(&e).(type) {
		case *int64:
			if *pointer = 7; empty != int64(0) || c.Value(&e) != int64(7) || !c.Number {
				t.Errorf("%s: %v, then %v", c.Name, empty, c.Value(&e))
			}
		case **int64:
			if *pointer = new(int64); empty != nil || c.Value(&e) != int64(0) || !c.Number {
				t.Errorf("%s: %v, then %v", c.Name, empty, c.Value(&e))
			}
		case *string:
			if *pointer = "s"; c.Value(&e) != "s" || empty != nil || c.Number {
				t.Errorf("%s: %v, then %v", c.Name, empty, c.Value(&e))
			}
		case **string:
			if *pointer = new(string); empty != nil || c.Value(&e) != "" || c.Number {
				t.Errorf("%s: %v, then %v", c.Name, empty, c.Value(&e))
			}
		default:
			t.Errorf("%s: a field of type %T", c.Name, pointer)
		}
		n, isNumber := int64(0), false
		text, isText := "", false
		if c.Number {
			n, isNumber = c.Int(&e)
		} else {
			text, isText = c.Text(&e)
		}
		if value := c.Value(&e); isNumber && value != n || isText && value != text || isNumber == isText {
			t.Errorf("%s: %v, %d, %q", c.Name, value, n, text)
		}
	}
}
