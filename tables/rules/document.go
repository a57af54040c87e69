package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/kmodquery/kmodquery/internal/human"
)

// documents returns the documents of a YAML file.
func documents(f textFile) ([]*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(f.content))
	var all []*yaml.Node
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, yamlError(f.path, err)
		}
		if len(node.Content) == 1 && !isNull(node.Content[0]) {
			all = append(all, node.Content[0])
		}
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// yamlError returns an error of the library with the file and the line.
func yamlError(path string, err error) error {
	text, line := err.Error(), 0
	if match := yamlLine.FindStringSubmatch(text); match != nil {
		line, _ = strconv.Atoi(match[1])
		text = "yaml: " + text[len(match[0]):]
	}
	return &FileError{path, line, errors.New(text)}
}

// A mapping is a YAML mapping whose keys are known.
type mapping struct {
	path string
	line int
	of   map[string]*yaml.Node
}

// parseMapping returns a mapping that has only these keys, each once.
func parseMapping(path string, n *yaml.Node, keys ...string) (mapping, error) {
	if n.Kind != yaml.MappingNode {
		return mapping{}, &FileError{path, n.Line, fmt.Errorf("there must be a mapping with %v", keys)}
	}
	m := mapping{path, n.Line, map[string]*yaml.Node{}}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || !slices.Contains(keys, key.Value):
			nearest := ""
			if best := human.Nearest(key.Value, keys); best != "" {
				nearest = "; the nearest is " + best
			}
			return mapping{}, &FileError{path, key.Line, fmt.Errorf("there is no field %q%s", key.Value, nearest)}
		case m.of[key.Value] != nil:
			return mapping{}, &FileError{path, key.Line, fmt.Errorf("%s is set twice", key.Value)}
		}
		m.of[key.Value] = value
	}
	return m, nil
}

// text returns a text, "" if the key is not set.
func (m mapping) text(key string, most int) (string, error) {
	n := m.of[key]
	switch {
	case n == nil:
		return "", nil
	case n.Kind != yaml.ScalarNode || isNull(n):
		return "", m.fail(key, "%s takes a text", key)
	case len(n.Value) > most:
		return "", m.fail(key, "%s has more than %d bytes", key, most)
	}
	return n.Value, nil
}

// required is text, and returns an error if there is none.
func (m mapping) required(key string, most int) (string, error) {
	text, err := m.text(key, most)
	if err == nil && text == "" {
		err = &FileError{m.path, m.line, fmt.Errorf("%s is missing", key)}
	}
	return text, err
}

// fail returns an error at the line of a key.
func (m mapping) fail(key, format string, args ...any) error {
	line := m.line
	if n := m.of[key]; n != nil {
		line = n.Line
	}
	return &FileError{m.path, line, fmt.Errorf(format, args...)}
}
