package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// Two tabs of a browser, or two requests at once, refresh with the same token. Both must get the same next one:
// two that differ would be two sessions of one login, of which the first that goes on ends the other. So
// the next token is kept for the grace, encrypted by the one before it, which the database does not have.

// sealing is the cipher of what follows a refresh token, of 256 random bits.
func sealing(token string) (cipher.AEAD, error) {
	key := sha256.Sum256([]byte("successor " + token))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("encrypting a refresh token: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("encrypting a refresh token: %w", err)
	}
	return aead, nil
}

// seal encrypts next by token.
func seal(token, next string) (string, error) {
	aead, err := sealing(token)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce)
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, []byte(next), nil)), nil
}

// unseal is seal's reverse. It is not ok for what another token has sealed.
func unseal(token, sealed string) (next string, ok bool) {
	aead, err := sealing(token)
	if err != nil {
		return "", false
	}
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil || len(raw) < aead.NonceSize() {
		return "", false
	}
	b, err := aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], nil)
	return string(b), err == nil
}
