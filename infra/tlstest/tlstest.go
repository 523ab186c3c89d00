// Package tlstest makes certificates for tests: an authority of the test's own,
// and servers and users that it vouches for, as files and as configurations.
//
// # Why
//
// Made afresh for every test rather than kept as files: those run out one day,
// and a private key in a repository is one that somebody will use.
package tlstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An Authority vouches for servers and users until its test ends.
type Authority struct {
	CAFile string         // its own certificate, as PEM
	Pool   *x509.CertPool // the same

	tb   testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// A Pair is a certificate and its private key.
type Pair struct{ CertFile, KeyFile string }

// New makes an authority.
func New(tb testing.TB) *Authority {
	tb.Helper()
	a := &Authority{tb: tb, dir: tb.TempDir(), key: newKey(tb)}
	template := a.template("authority")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		tb.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	a.Pool = x509.NewCertPool()
	a.Pool.AddCert(a.cert)
	a.CAFile = a.write("ca.crt", "CERTIFICATE", der)
	return a
}

// Server makes a certificate for a server of these names or addresses. A second
// one stands in the files of the first, as one that was renewed does.
func (a *Authority) Server(hosts ...string) Pair {
	a.tb.Helper()
	template := a.template(hosts[0])
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return a.sign("server", template)
}

// User makes a certificate that says who a client is.
func (a *Authority) User(name string) Pair {
	a.tb.Helper()
	template := a.template(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.sign("user-"+name, template)
}

// Expired makes a certificate for a server whose time is over.
func (a *Authority) Expired(host string) Pair {
	a.tb.Helper()
	template := a.template(host)
	template.DNSNames, template.IPAddresses = []string{host}, []net.IP{net.ParseIP(host)}
	template.NotAfter = time.Now().Add(-time.Minute)
	return a.sign("expired", template)
}

// ServerConfig is for a server on this machine that takes users' certificates.
func (a *Authority) ServerConfig() *tls.Config {
	a.tb.Helper()
	return a.Config(a.Server("localhost", "127.0.0.1"))
}

// Config is for a server that shows this certificate.
func (a *Authority) Config(p Pair) *tls.Config {
	a.tb.Helper()
	cert, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		a.tb.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: a.Pool, MinVersion: tls.VersionTLS12}
}

func (a *Authority) template(name string) *x509.Certificate {
	a.tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		a.tb.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func (a *Authority) sign(name string, template *x509.Certificate) Pair {
	a.tb.Helper()
	key := newKey(a.tb)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.tb.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return Pair{a.write(name+".crt", "CERTIFICATE", der), a.write(name+".key", "PRIVATE KEY", private)}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func (a *Authority) write(name, kind string, der []byte) string {
	a.tb.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.tb.Fatal(err)
	}
	return path
}
