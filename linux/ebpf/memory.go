package ebpf

import "slices"

// A memory keeps the last maxRemembered values that were put into it and not
// forgotten. The zero value is ready.
type memory[K comparable, V any] struct {
	values map[K]V
	order  []K // as they came, and some that were forgotten meanwhile
}

// maxRemembered bounds the values of a memory. The oldest is forgotten first.
const maxRemembered = 1024

func (m *memory[K, V]) get(key K) (V, bool) {
	value, ok := m.values[key]
	return value, ok
}

// put remembers a value under a key that has none.
func (m *memory[K, V]) put(key K, value V) {
	if m.values == nil {
		m.values = map[K]V{}
	}
	for len(m.values) >= maxRemembered {
		delete(m.values, m.order[0])
		m.order = m.order[1:]
	}
	m.values[key] = value
	if m.order = append(m.order, key); len(m.order) > 2*maxRemembered {
		m.order = slices.DeleteFunc(m.order, func(key K) bool { _, ok := m.values[key]; return !ok })
	}
}

func (m *memory[K, V]) forget(key K) { delete(m.values, key) }
