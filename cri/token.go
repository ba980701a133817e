package cri

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/troupe-run/troupe/messages"
)

// maxTokens is how many tokens may wait for their client.
const maxTokens = 1000

// tokens are what sessions are opened with: 128 random bits, good once and for a
// short time. Who knows one may do what its RPC asked for.
type tokens struct {
	life time.Duration
	now  func() time.Time

	mu     sync.Mutex
	issued map[string]ticket
}

type ticket struct {
	request any
	until   time.Time
}

func newTokens(life time.Duration) *tokens {
	return &tokens{life: life, now: time.Now, issued: map[string]ticket{}}
}

func (t *tokens) issue(request any) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.issued) >= maxTokens {
		t.expire()
	}
	if len(t.issued) >= maxTokens {
		return "", messages.Errorf(messages.Busy, "%d sessions were asked for and not opened; each is given up %s after its RPC", len(t.issued), t.life)
	}
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	token := hex.EncodeToString(b[:])
	t.issued[token] = ticket{request, t.now().Add(t.life)}
	return token, nil
}

// redeem gives what the token was issued for, once.
func (t *tokens) redeem(token string) (request any, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, ok := t.issued[token]
	delete(t.issued, token)
	if !ok || t.now().After(found.until) {
		return nil, false
	}
	return found.request, true
}

func (t *tokens) expire() {
	for token, issued := range t.issued {
		if t.now().After(issued.until) {
			delete(t.issued, token)
		}
	}
}
