package module

// Columns are the names of the event columns that only a module's image provides.
var Columns = []string{
	"sha256", "image_sha256", "vermagic", "license", "intree", "signer", "signature_key_id", "signature_hash",
}
