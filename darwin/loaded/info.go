package loaded

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"howett.net/plist"
)

const (
	// maxInfo bounds an Info.plist in bytes, and maxBinaryInfo one in the binary
	// format, in which deep nesting costs more.
	maxInfo       = 2 << 20
	maxBinaryInfo = 256 << 10
	// maxDepth bounds the nesting of elements. Apple's files have some ten levels.
	maxDepth = 64
)

// An info holds the used keys of a bundle's Info.plist.
type info struct {
	ID         string `plist:"CFBundleIdentifier"`
	Executable string `plist:"CFBundleExecutable"`
}

// infoPlaces are the paths of the Info.plist and of the folder of executables in a
// bundle: of the usual layout, and of the oldest one.
var infoPlaces = []struct{ info, executables string }{
	{"Contents/Info.plist", "Contents/MacOS"},
	{"Info.plist", ""},
}

// readInfo returns the Info.plist of a bundle and the path of its executable, or ""
// if it has none. The bundle must have an absolute path: codesign could take another
// one for an option.
func readInfo(bundle string) (info, string, error) {
	if !filepath.IsAbs(bundle) {
		return info{}, "", errors.New("the path of a bundle is not absolute")
	}
	var failed error
	for _, place := range infoPlaces {
		file, err := openRegular(filepath.Join(bundle, place.info))
		if err != nil {
			failed = err
			continue
		}
		text, err := io.ReadAll(io.LimitReader(file, maxInfo+1))
		file.Close()
		if err != nil {
			return info{}, "", fmt.Errorf("read an Info.plist: %w", err)
		}
		i, err := parseInfo(text)
		if err != nil {
			return info{}, "", err
		}
		name := i.Executable
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return i, "", nil
		}
		return i, filepath.Join(bundle, place.executables, name), nil
	}
	return info{}, "", fmt.Errorf("read an Info.plist: %w", failed)
}

var errInfo = errors.New("not a valid Info.plist")

// parseInfo parses an untrusted Info.plist in XML or in the binary format.
func parseInfo(text []byte) (i info, err error) {
	defer func() {
		if recovered := recover(); recovered != nil { // the library panics on some input
			i, err = info{}, fmt.Errorf("%w: %v", errInfo, recovered)
		}
	}()
	if err := checkInfo(text); err != nil {
		return info{}, err
	}
	if _, err := plist.Unmarshal(text, &i); err != nil {
		return info{}, fmt.Errorf("%w: %w", errInfo, err)
	}
	return i, nil
}

// checkInfo rejects input that would cost the library too much memory or time.
func checkInfo(text []byte) error {
	if len(text) > maxInfo {
		return fmt.Errorf("%w: it has more than %d bytes", errInfo, maxInfo)
	}
	if bytes.HasPrefix(text, []byte("bplist")) {
		return checkBinary(text)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("<")) {
		return fmt.Errorf("%w: its format is unknown", errInfo) // the library also accepts a text format
	}
	depth := 0
	decoder := xml.NewDecoder(bytes.NewReader(text))
	for {
		token, err := decoder.RawToken()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errInfo, err)
		}
		switch token.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
		if depth > maxDepth {
			return fmt.Errorf("%w: it is nested too deeply", errInfo)
		}
	}
}

// checkBinary checks the trailer of the binary format, from which the library
// computes its allocations: the sizes of offsets and references, and the number of
// objects.
func checkBinary(text []byte) error {
	const trailer = 32
	if len(text) > maxBinaryInfo || len(text) < trailer {
		return fmt.Errorf("%w: it has %d bytes", errInfo, len(text))
	}
	end := text[len(text)-trailer:]
	offsetSize, referenceSize, objects := end[6], end[7], binary.BigEndian.Uint64(end[8:])
	if offsetSize < 1 || offsetSize > 8 || referenceSize < 1 || referenceSize > 4 || objects > uint64(len(text)) {
		return fmt.Errorf("%w: its trailer is damaged", errInfo)
	}
	return nil
}
