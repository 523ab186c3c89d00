package esdbstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"cartwright/domain/event"
)

// A probe shakes hands with the nodes of an address, as the client will: the
// client takes a certificate that does not fit for a node that is away, and goes
// on looking for ever.
type probe struct {
	hosts  []string
	config *tls.Config // nil where there is no TLS
}

// probeTimeout is how long one handshake may take.
const probeTimeout = 5 * time.Second

func newProbe(config *esdb.Configuration) (*probe, error) {
	p := &probe{}
	if config.DisableTLS {
		return p, nil
	}
	p.config = &tls.Config{
		RootCAs: config.RootCAs, InsecureSkipVerify: config.SkipCertificateVerification, //nolint:gosec // as the operator wants it
		NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12,
	}
	if config.UserCertFile != "" {
		pair, err := tls.LoadX509KeyPair(config.UserCertFile, config.UserKeyFile)
		if err != nil {
			return nil, fmt.Errorf("user's certificate: %w", err)
		}
		p.config.Certificates = []tls.Certificate{pair}
	}
	for _, seed := range config.GossipSeeds {
		p.hosts = append(p.hosts, seed.String())
	}
	if len(p.hosts) == 0 {
		p.hosts = []string{config.Address}
	}
	return p, nil
}

// look fails with event.ErrDenied when nodes answer, and none of them gets on
// with us: their certificates are not what we trust, or ours not what they do.
// Nodes that do not answer are no error here.
func (p *probe) look(ctx context.Context) error {
	if p.config == nil {
		return nil
	}
	said := make([]error, len(p.hosts))
	var wg sync.WaitGroup
	for i, host := range p.hosts {
		wg.Go(func() { said[i] = p.shake(ctx, host) })
	}
	wg.Wait()
	var refused []error
	for i, err := range said {
		switch {
		case err == nil:
			return nil
		case misfit(err):
			refused = append(refused, fmt.Errorf("%s: %w", p.hosts[i], err))
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", event.ErrDenied, errors.Join(refused...))
}

func (p *probe) shake(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	config := p.config.Clone()
	if config.ServerName, _, err = net.SplitHostPort(host); err != nil {
		return err
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return err
	}
	return greet(ctx, secured)
}

// greeting is how a client of HTTP/2 begins: its preface, and settings without any.
const greeting = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// greet waits for the first word of the server: only then is it sure that it has
// taken our certificate, or our lack of one, since for the client the handshake
// of TLS 1.3 ends before the server has looked.
func greet(ctx context.Context, conn net.Conn) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(probeTimeout)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(greeting)); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	return err
}

// misfit tells a handshake that can't succeed from one that was cut off: we
// refused the other side's certificate, it refused ours, or it speaks no TLS.
func misfit(err error) bool {
	if _, ours := errors.AsType[*tls.CertificateVerificationError](err); ours {
		return true
	}
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
		return true
	}
	alert, ok := errors.AsType[*net.OpError](err)
	return ok && alert.Op == "remote error" // as crypto/tls calls an alert that it was sent
}
