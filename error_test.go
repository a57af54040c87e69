package kmodquery

import "testing"

func TestNotSupportedErrorNamesWhatIsNeeded(t *testing.T) {
	err := &NotSupportedError{Missing: "no BTF", Need: "Linux 5.8"}
	if err.Error() != "not supported: no BTF; needs Linux 5.8" || !err.Is(ErrNotSupported) {
		t.Errorf("%v", err)
	}
	if err := (&NotSupportedError{Missing: "no BTF"}); err.Error() != "not supported: no BTF" {
		t.Errorf("%v", err)
	}
}
