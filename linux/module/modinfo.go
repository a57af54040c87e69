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
	absent := map[string]*string{
		"name": &m.Name, "version": &m.Version, "srcversion": &m.Srcversion,
		"vermagic": &m.Vermagic, "license": &m.License, "intree": new(string),
	}
	for entry := range bytes.SplitSeq(text, []byte{0}) {
		key, value, isEntry := bytes.Cut(entry, []byte{'='})
		field, isFirst := absent[string(key)]
		if !isEntry || !isFirst {
			continue
		}
		delete(absent, string(key))
		var isCut bool
		*field, isCut = cut(string(value))
		if isCut && string(key) != "intree" && string(key) != "name" {
			m.miss(string(key))
		}
	}
	switch {
	case absent["intree"] == nil:
		m.Intree = new(int64(1))
	case whole:
		m.Intree = new(int64(0))
	}
	for _, column := range modinfoColumns {
		if absent[column] != nil && !whole {
			m.miss(column)
		}
	}
}
