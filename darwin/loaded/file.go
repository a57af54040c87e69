package loaded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// Columns that [kmodquery.ModuleFile.Missing] can name.
const (
	columnPath   = "path"
	columnSHA256 = "sha256"
	columnSigner = "signer"
	columnTeamID = "team_id"
	columnCDHash = "cdhash"
)

const (
	// signatureTime and maxSignature bound one call of codesign.
	signatureTime = 10 * time.Second
	maxSignature  = 64 << 10
	// maxExecutable bounds the executable that is hashed, in bytes, and hashTime
	// the hashing.
	maxExecutable = 1 << 30
	hashTime      = 10 * time.Second
)

// File tells what lies on disk for an extension: its bundle, the hash of the
// executable in it, and who signed it. The bundle is the one that it was loaded
// from, where that is known and still one of that id, else the one of that id in
// macOS's folders. Apple's own come without an executable from macOS 11 on.
func (k *Kexts) File(ctx context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	var file kmodquery.ModuleFile
	path, i, executable := m.Path, info{}, ""
	err := errors.New("it has no path")
	if path != "" {
		i, executable, err = readInfo(path)
	}
	if err != nil || i.ID != m.Name {
		if found := k.bundles.find(ctx, m.Name); found != "" {
			path = found
			_, executable, err = readInfo(path)
		} else if err == nil {
			err = errors.New("another extension is in its place")
		}
	}
	file.Path = path
	if err != nil {
		if path == "" {
			file.Miss(columnPath)
		}
		file.Miss(columnSHA256, columnSigner, columnTeamID, columnCDHash)
		return file
	}
	if file.SHA256, err = hashExecutable(ctx, executable); err != nil {
		file.Miss(columnSHA256)
	}
	s, err := k.signature(ctx, path)
	if err != nil {
		file.Miss(columnSigner, columnTeamID, columnCDHash)
		return file
	}
	file.Signer, file.TeamID, file.CDHash = s.authority, s.team, s.cdhash
	return file
}

func hashExecutable(ctx context.Context, path string) (string, error) {
	if path == "" {
		return "", errors.New("the bundle has no executable")
	}
	file, err := openRegular(path)
	if err != nil {
		return "", fmt.Errorf("open an executable: %w", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || info.Size() > maxExecutable {
		return "", errors.New("the executable is too large")
	}
	ctx, cancel := context.WithTimeout(ctx, hashTime)
	defer cancel()
	sum := sha256.New()
	if _, err := io.Copy(sum, &patientReader{ctx, file}); err != nil {
		return "", fmt.Errorf("read an executable: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// A patientReader reads as long as its context lives.
type patientReader struct {
	ctx  context.Context
	file *os.File
}

func (r *patientReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.file.Read(b)
}

// A signature is what codesign shows of one. All is empty for a bundle that has
// none.
type signature struct{ authority, team, cdhash string }

func (k *Kexts) signature(ctx context.Context, path string) (signature, error) {
	if strings.ContainsAny(path, "\r\n") {
		return signature{}, errors.New("its path would pass for lines of codesign's")
	}
	_, text, err := run(ctx, signatureTime, maxSignature, k.programs.Codesign, "-d", "--verbose=4", path)
	if err != nil && strings.Contains(text, "code object is not signed at all") {
		return signature{}, nil
	}
	if err != nil {
		return signature{}, err
	}
	return parseSignature(text), nil
}

var signatureLine = regexp.MustCompile(`(?m)^(Authority|TeamIdentifier|CDHash)=(.{1,512})$`)

// parseSignature reads the output of codesign -d --verbose=4. The first of the
// authorities is the one that signed, the others vouch for it.
func parseSignature(text string) signature {
	found := map[string]string{}
	for _, m := range signatureLine.FindAllStringSubmatch(text, -1) {
		if name := m[1]; found[name] == "" {
			found[name] = strings.TrimSpace(m[2])
		}
	}
	s := signature{authority: found["Authority"], cdhash: hash(found["CDHash"])}
	if team := found["TeamIdentifier"]; team != "not set" {
		s.team = team
	}
	return s
}
