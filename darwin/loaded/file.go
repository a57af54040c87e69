package loaded

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// signatureTime bounds the time of one codesign, and maxSignature its output in
	// bytes.
	signatureTime = 10 * time.Second
	maxSignature  = 64 << 10
	// maxExecutable bounds an executable that is hashed, in bytes, and hashTime the
	// time for it.
	maxExecutable = 1 << 30
	hashTime      = 10 * time.Second
)

// File returns what is on disk for an extension: its bundle, the hash of the bundle's
// executable and its signature. The bundle is the one at the module's path, if that
// still has the extension's id, otherwise the one with this id in the folders of
// macOS. Apple's own bundles have no executable. Values that cannot
// be determined are named in Missing. File returns when they are known, the file systems
// do not answer in time, or ctx ends.
func (k *Kexts) File(ctx context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	file, ok := k.files.Run(ctx, cmp.Or(m.Path, m.Name), func(ctx context.Context) kmodquery.ModuleFile { return k.lookUp(ctx, m) })
	if !ok {
		return unknownFile(m.Path)
	}
	return file
}

// unknownFile returns the file of an extension of which only the path may be known.
func unknownFile(path string) kmodquery.ModuleFile {
	file := kmodquery.ModuleFile{Path: path}
	if path == "" {
		file.Missing.Add("path")
	}
	file.Missing.Add("sha256", "signer", "team_id", "cdhash")
	return file
}

// lookUp does what File does. It may block.
func (k *Kexts) lookUp(ctx context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	remote, err := k.remote()
	if err != nil || isUnder(remote, m.Path) {
		return unknownFile(m.Path)
	}
	file := kmodquery.ModuleFile{Path: m.Path}
	i, executable, err := readInfo(m.Path)
	if err != nil || i.ID != m.Name {
		if found := k.bundles.find(ctx, m.Name, remote); found != "" {
			file.Path = found
		}
		i, executable, err = readInfo(file.Path)
	}
	if err != nil || i.ID != m.Name {
		return unknownFile(file.Path)
	}
	if file.SHA256, err = hashExecutable(ctx, executable); err != nil {
		file.Missing.Add("sha256")
	}
	s, err := k.signature(ctx, file.Path)
	if err != nil {
		file.Missing.Add("signer", "team_id", "cdhash")
		return file
	}
	file.Signer, file.TeamID, file.CDHash = s.authority, s.team, s.cdhash
	return file
}

// hashExecutable returns the SHA-256 of a file. An empty path is an error.
func hashExecutable(ctx context.Context, path string) (string, error) {
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
	stop := context.AfterFunc(ctx, func() { file.Close() }) // the next read fails
	defer stop()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", fmt.Errorf("read an executable: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// A signature holds what codesign prints. It is empty for an unsigned bundle.
type signature struct{ authority, team, cdhash string }

func (k *Kexts) signature(ctx context.Context, path string) (signature, error) {
	if strings.ContainsAny(path, "\r\n") {
		return signature{}, errors.New("its path contains a line break and could forge lines of codesign")
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

// parseSignature parses the output of codesign -d --verbose=4. The first authority is
// the signer; the others certify it.
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
