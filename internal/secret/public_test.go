package secret

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"unicode/utf16"
)

// utf16Of is ASCII in UTF-16, with a byte order mark if it is marked.
func utf16Of(text string, order binary.AppendByteOrder, marked bool) string {
	var b []byte
	if marked {
		b = order.AppendUint16(b, 0xfeff)
	}
	for _, u := range utf16.Encode([]rune(text)) {
		b = order.AppendUint16(b, u)
	}
	return string(b)
}

func TestIsPublic(t *testing.T) {
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, edPrivate, _ := ed25519.GenerateKey(rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, ec.Public(), ec)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	public := map[string]string{
		"pkcs1":       string(x509.MarshalPKCS1PublicKey(&rs.PublicKey)),
		"certificate": string(certificate),
		"cert-pem":    block("CERTIFICATE", certificate),
		"jwk":         `{ "kty" : "OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(ed) + `"}`,
		"ssh":         "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN0000000000000000000000000000000000000000000 me",
		"ssh-ecdsa":   " \tecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAI",
		"known-hosts": "host.example ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB",
		"ssh-blob":    "\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + string(ed),
		"openssl":     "Public-Key: (2048 bit)\nModulus:\n    00:ab:cd",
		"openssl-ed":  "ED25519 Public-Key:\npub:\n    00:ab",
		"damaged":     strings.Replace(block("PUBLIC KEY", certificate), "-----BEGIN", "----- BEGIN", 1),
		"ssh2":        "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA",
	}
	for name, key := range map[string]any{"rsa": rs.Public(), "ec": ec.Public(), "ed25519": ed} {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		public[name], public[name+"-pem"] = string(der), block("PUBLIC KEY", der)
	}
	std := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	encodings := map[string]func(string) string{
		"plain":     func(s string) string { return s },
		"newline":   func(s string) string { return s + "\r\n" },
		"spaces":    func(s string) string { return " \n" + s },
		"base64":    std,
		"twice":     func(s string) string { return std(std(s) + "\n") },
		"thrice":    func(s string) string { return std(std(std(s))) },
		"lines":     func(s string) string { i := len(std(s)) / 2; return std(s)[:i] + "\n" + std(s)[i:] + "\n" },
		"base64url": func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"hex":       func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
		"bom":       func(s string) string { return "\xef\xbb\xbf" + std(s) },
		"utf-16le":  func(s string) string { return utf16Of(std(s), binary.LittleEndian, true) },
		"utf-16be":  func(s string) string { return utf16Of(std(s)+"\r\n", binary.BigEndian, false) },
	}
	for name, key := range public {
		for how, encode := range encodings {
			if !IsPublic([]byte(encode(key))) {
				t.Errorf("%s in %s is not seen", name, how)
			}
		}
	}
	if !IsPublic([]byte(utf16Of(public["rsa-pem"], binary.LittleEndian, true))) {
		t.Error("PEM in UTF-16 is not seen")
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(edPrivate)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"empty": "", "password": "correct horse battery staple", "webhook": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		"pkcs8": string(pkcs8), "private-pem": block("PRIVATE KEY", pkcs8), "private-pkcs1": string(x509.MarshalPKCS1PrivateKey(rs)),
		"zeros": string(make([]byte, 32)), "spaces": strings.Repeat(" ", 32),
	} {
		for how, encode := range encodings {
			if IsPublic([]byte(encode(value))) {
				t.Errorf("%s in %s is called public", name, how)
			}
		}
	}
}

func TestRandomIsNotPublic(t *testing.T) {
	for range 1000 {
		b := make([]byte, 64)
		_, _ = rand.Read(b)
		for _, value := range []string{string(b[:32]), string(b), hex.EncodeToString(b), base64.StdEncoding.EncodeToString(b[:32]),
			base64.RawURLEncoding.EncodeToString(b), base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(b)))} {
			if IsPublic([]byte(value)) {
				t.Fatalf("%q is called public", value)
			}
			if _, err := Parse("l", []byte(value)); err != nil {
				t.Fatalf("%q: %v", value, err)
			}
		}
	}
}
