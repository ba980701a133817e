package cri

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// TLSFiles are the files of a server's identity, in PEM. They are read again
// when they have changed, at the next connection (CRI-O: within 5 minutes).
type TLSFiles struct {
	Cert, Key string
	CA        string // whose clients are let in; empty: everybody with a token

	log    *slog.Logger
	mu     sync.Mutex
	loaded map[string]time.Time // the files' times
	config *tls.Config
}

// listen wraps a listener; wrong files are an error now.
func (f *TLSFiles) listen(l net.Listener, log *slog.Logger) (net.Listener, error) {
	if f.Cert == "" || f.Key == "" {
		return nil, errors.New("stream_enable_tls needs stream_tls_cert and stream_tls_key in [crio.api]")
	}
	f.log = log
	if err := f.load(); err != nil {
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current(), nil },
	}), nil
}

// current is the configuration of the files as they are. Files that are wrong,
// perhaps because they are just being replaced, leave the last good ones.
func (f *TLSFiles) current() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed() {
		if err := f.load(); err != nil {
			f.log.Error("the streaming server goes on with the certificate it had", "err", err)
		}
	}
	return f.config
}

func (f *TLSFiles) changed() bool {
	for name, at := range f.loaded {
		if info, err := os.Stat(name); err == nil && !info.ModTime().Equal(at) {
			return true
		}
	}
	return false
}

func (f *TLSFiles) load() error {
	times := map[string]time.Time{}
	for _, name := range []string{f.Cert, f.Key, f.CA} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		times[name] = info.ModTime()
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{pair}}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return err
		}
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s holds no certificate in PEM", f.CA)
		}
	}
	f.config, f.loaded = config, times
	return nil
}
