package module

import "bytes"

// readModinfo sets the fields that come from .modinfo. Its entries have the form
// key=value and are separated by NULs. The first entry of a key is used, as in
// get_modinfo of kernel/module/main.c. If text is not the whole section, keys without
// an entry are missing.
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
