package signatures

import "github.com/kmodquery/kmodquery"

// All returns every signature, ordered by ID. The caller owns the slice.
func All() []kmodquery.Signature {
	return []kmodquery.Signature{
		trc1017(),
	}
}
