package secret

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	utf8BOM = "\xef\xbb\xbf"
	// maxPeels is how many encodings may lie around a public key. Two of them are common: the base64 of
	// PEM, which Kubernetes encodes once more.
	maxPeels = 4
)

// publicText is what stands in the text of a public key: the marker of PEM, also one that is damaged, the
// type of a JWK, a key of SSH, what openssl and .NET print, and the prefix of a webhook's key.
var publicText = regexp.MustCompile(`(?i)-{2,}\s*BEGIN|BEGIN [A-Z0-9 ]*(PUBLIC KEY|CERTIFICATE)|\bkty[\\"']*\s*:|` +
	`(^|\s)(sk-)?(ssh-|ecdsa-sha2-)\S+\s+AAAA|public-key:|^modulus=|<modulus>|^whpk_`)

// publicBlob is a public key as SSH sends it: a length, and the name of its type.
var publicBlob = regexp.MustCompile(`^\x00\x00\x00[\x07-\x40](sk-)?(ssh-|ecdsa-sha2-)`)

var privateText = regexp.MustCompile(`(?i)BEGIN [A-Z0-9 ]*PRIVATE KEY`)

// IsPublic says whether a value that is meant as a symmetric key is a public key or a certificate, in
// text or in DER, or one in base64, base64url, hexadecimal or UTF-16, also several times: whoever has the
// public key could sign with it. A key set of JSON counts as one, whatever is in it; a private key in PEM does not.
func IsPublic(value []byte) bool { return isPublic(value, maxPeels) }

func isPublic(b []byte, peels int) bool {
	// Both may end in a byte that is a space.
	if binary := bytes.TrimLeftFunc(b, unicode.IsSpace); publicBlob.Match(binary) || isPublicDER(binary) {
		return true
	}
	text := strings.Trim(strings.TrimPrefix(string(b), utf8BOM), "\x00 \t\r\n\"'")
	if publicText.MatchString(text) && !privateText.MatchString(text) {
		return true
	}
	if peels == 0 {
		return false
	}
	if plain, _ := utf16Text(b); plain != "" && isPublic([]byte(plain), peels-1) {
		return true
	}
	text = strings.NewReplacer(`\r`, "", `\n`, "").Replace(text)
	text = strings.Join(strings.Fields(text), "")
	if plain, err := hex.DecodeString(strings.ReplaceAll(strings.TrimPrefix(text, "0x"), ":", "")); err == nil && len(plain) > 0 && isPublic(plain, peels-1) {
		return true
	}
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
	plain, err := base64.RawStdEncoding.DecodeString(text)
	return err == nil && len(plain) > 0 && isPublic(plain, peels-1)
}

// isPublicDER knows public keys and certificates by their form, so those of all algorithms. What
// follows them does not matter.
func isPublicDER(b []byte) bool {
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(b, &raw); err != nil || raw.Tag != asn1.TagSequence {
		return false
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	var signed struct { // a certificate, or a request for one
		Content   asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	_, notSPKI := asn1.Unmarshal(raw.FullBytes, &spki)
	_, notSigned := asn1.Unmarshal(raw.FullBytes, &signed)
	_, notPKCS1 := x509.ParsePKCS1PublicKey(raw.FullBytes)
	return notSPKI == nil || notSigned == nil || notPKCS1 == nil
}

// utf16Text is the text of b in UTF-16, "" if it is none. marked says that it begins with a byte order
// mark; without one it is ASCII in twice its bytes. An odd byte at the end, half of a line's end, is no
// part of it.
func utf16Text(b []byte) (text string, marked bool) {
	if len(b) < 4 {
		return "", false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if b[0] == 0xfe || b[0] == 0 {
		order = binary.BigEndian
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	if marked = units[0] == 0xfeff; marked {
		units = units[1:]
	}
	for _, r := range utf16.Decode(units) {
		if r == utf8.RuneError || !unicode.IsPrint(r) && !unicode.IsSpace(r) || !marked && r >= utf8.RuneSelf {
			return "", false
		}
	}
	return string(utf16.Decode(units)), marked
}
