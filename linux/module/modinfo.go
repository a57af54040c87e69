package module

import "bytes"

// readModinfo takes what is wanted of the entries of .modinfo. They have the
// form key=value and NULs between them; the first of a key counts, as in
// get_modinfo of kernel/module/main.c. Where text is not the whole section,
// what it does not say is unknown.
func (m *Image) readModinfo(text []byte, whole bool) {
	if !whole {
		text = text[:bytes.LastIndexByte(text, 0)+1]
	}
	values := map[string]*string{
		"name": nil, "version": nil, "srcversion": nil, "vermagic": nil, "license": nil, "intree": nil,
	}
	for entry := range bytes.SplitSeq(text, []byte{0}) {
		key, value, _ := bytes.Cut(entry, []byte{'='})
		if first, wanted := values[string(key)]; wanted && first == nil && len(key) < len(entry) {
			values[string(key)] = new(string(value))
		}
	}
	take := func(column string) string {
		value := values[column]
		if value == nil {
			if !whole {
				m.miss(column)
			}
			return ""
		}
		kept, isCut := cut(*value)
		if isCut {
			m.miss(column)
		}
		return kept
	}
	m.Version = take(columnVersion)
	m.Srcversion = take(columnSrcversion)
	m.Vermagic = take(columnVermagic)
	m.License = take(columnLicense)
	switch {
	case values["intree"] != nil:
		m.Intree = new(int64(1))
	case whole:
		m.Intree = new(int64(0))
	default:
		m.miss(columnIntree)
	}
	if name := values["name"]; name != nil {
		m.Name, _ = cut(*name)
	}
}
