package signatures

import "github.com/kmodquery/kmodquery"

// All returns every signature, ordered by ID. The caller owns the slice.
func All() []kmodquery.Signature {
	return []kmodquery.Signature{
		kmq1001(), kmq1002(), kmq1003(), kmq1004(), kmq1005(), kmq1006(), kmq1007(), kmq1008(), kmq1009(), kmq1010(), kmq1013(), kmq1014(), kmq1015(), kmq1016(),
		trc1017(),
	}
}
