package module

// Columns names the columns of an event that only the module's image gives.
var Columns = []string{
	"sha256", "image_sha256", "vermagic", "license", "intree", "signer", "signature_key_id", "signature_hash",
}
