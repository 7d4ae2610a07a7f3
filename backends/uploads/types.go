package uploads

import (
	"bytes"
	"encoding/binary"
	"mime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// sniffLen is how many of the first bytes are looked at. It is even, as characters of UTF-16 are.
const sniffLen = 512

func isMediaType(s string) bool {
	kind, sub, ok := strings.Cut(s, "/")
	return ok && isToken(kind) && isToken(sub)
}

// isToken says whether s is a name in a media type (RFC 6838 section 4.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && (i == 0 || !strings.ContainsRune("!#$&-^_.+", rune(s[i]))) {
			return false
		}
	}
	return s != "" && len(s) <= 127
}

func normalTypes(allow []string) []string {
	if len(allow) == 0 {
		return []string{"image/jpeg", "image/png", "image/webp", "application/pdf"}
	}
	types := make([]string, 0, len(allow))
	for _, t := range allow {
		if t = strings.ToLower(t); !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	return types
}

// contentType is the Content-Type with which a file of the declared type is sent and stored, in one spelling: a
// media type of the list, and the charset that a type of characters may have. It is false for what is not allowed.
func (s *Service) contentType(declared string) (string, bool) {
	media, params, err := mime.ParseMediaType(declared)
	if err != nil || !slices.Contains(s.allow, media) {
		return "", false
	}
	charset, has := params["charset"]
	switch {
	case len(params) == 0:
		return media, true
	case len(params) > 1 || !has || !isCharacters(media) || !isToken(charset):
		return "", false
	}
	return media + "; charset=" + strings.ToLower(charset), true
}

// mediaType is a Content-Type of ours without its charset, and the charset.
func mediaType(contentType string) (media, charset string) {
	media, charset, _ = strings.Cut(contentType, "; charset=")
	return media, charset
}

// isCharacters says whether a charset means something for files of the media type.
func isCharacters(media string) bool {
	kind, sub, _ := strings.Cut(media, "/")
	switch {
	case strings.HasSuffix(sub, "+xml"):
		return true
	case kind == "image", kind == "audio", kind == "video", kind == "font":
		return false
	}
	return media != "application/pdf" && media != "application/octet-stream" && media != "application/zip"
}

// signatures are how files of some types begin.
var signatures = map[string]func(head []byte) bool{
	"image/jpeg": begins("\xff\xd8\xff"),
	"image/png":  begins("\x89PNG\r\n\x1a\n"),
	"image/gif":  begins("GIF87a", "GIF89a"),
	"image/webp": func(head []byte) bool {
		return len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP"
	},
	"application/pdf": begins("%PDF-"),
}

func begins(with ...string) func(head []byte) bool {
	return func(head []byte) bool {
		return slices.ContainsFunc(with, func(s string) bool { return bytes.HasPrefix(head, []byte(s)) })
	}
}

// isType says whether a file of the Content-Type may begin with head. It asks for the type's signature at
// the very beginning and does not search: what finds types in the middle takes HTML for PDF. A type
// whose beginning is not known is taken as declared.
func isType(contentType string, head []byte) bool {
	media, charset := mediaType(contentType)
	if signed, ok := signatures[media]; ok {
		return signed(head)
	}
	if strings.HasPrefix(media, "text/") {
		return isText(head, charset)
	}
	return true
}

// isText says whether head may be the beginning of a text: in UTF-8, in a charset of one byte for each
// character such as Latin-1 or Windows-1252, or in UTF-16. Its last character may be cut off.
func isText(head []byte, charset string) bool {
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xfe")):
		return isUTF16(head, binary.LittleEndian, false)
	case bytes.HasPrefix(head, []byte("\xfe\xff")):
		return isUTF16(head, binary.BigEndian, false)
	case bytes.IndexByte(head, 0) >= 0:
		declared := strings.HasPrefix(charset, "utf-16")
		return isUTF16(head, binary.LittleEndian, !declared) || isUTF16(head, binary.BigEndian, !declared)
	}
	return isUTF8(head) || !isSigned(head) && !bytes.ContainsFunc(head, isBinary)
}

// isSigned says whether head has the signature of a type that is no text.
func isSigned(head []byte) bool {
	for _, signed := range signatures {
		if signed(head) {
			return true
		}
	}
	return false
}

func isUTF8(head []byte) bool {
	if len(head) == sniffLen {
		for cut := range utf8.UTFMax {
			if end := head[len(head)-cut:]; len(end) > 0 && utf8.RuneStart(end[0]) && !utf8.FullRune(end) {
				head = head[:len(head)-cut]
				break
			}
		}
	}
	return utf8.Valid(head)
}

// isBinary says whether c is a control character that texts do not have: all of C0 but tab, the ends of lines
// and pages, and escape (MIME Sniffing Standard, "binary data byte").
func isBinary(c rune) bool {
	return c < ' ' && c != '\t' && c != '\n' && c != '\f' && c != '\r' && c != 0x1b
}

// isUTF16 says whether head is UTF-16 in the byte order. Where nothing else tells so, half of its characters
// must be Latin, as nearly any bytes are some characters.
func isUTF16(head []byte, order binary.ByteOrder, guess bool) bool {
	if len(head)%2 != 0 {
		return false
	}
	latin, n := 0, len(head)/2
	for i := 0; i < n; i++ {
		c := rune(order.Uint16(head[2*i:]))
		if utf16.IsSurrogate(c) {
			if i+1 == n {
				return c < 0xdc00 && len(head) == sniffLen
			}
			i++
			if c = utf16.DecodeRune(c, rune(order.Uint16(head[2*i:]))); c == utf8.RuneError {
				return false
			}
		}
		if isBinary(c) || c&0xfffe == 0xfffe || unicode.Is(unicode.Co, c) {
			return false
		}
		if c < 0x100 {
			latin++
		}
	}
	return !guess || 2*latin >= n
}
