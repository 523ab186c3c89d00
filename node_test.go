package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cartwright/domain/event"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
	"cartwright/infra/tlstest"
)

// listening starts a node that listens by TCP, and gives its address as it says it.
func listening(t *testing.T, data string, args ...string) (s *server, uri string) {
	t.Helper()
	s = &server{tb: t, data: data, cmd: program(context.WithoutCancel(t.Context()), append([]string{"node", "--data", data, "--listen", "127.0.0.1:0"}, args...)...)}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = writerFunc(func(p []byte) (int, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.stderr.Write(p)
	})
	if err = s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("node is not ready: %v: %s", err, s.said())
	}
	for word := range strings.FieldsSeq(line) {
		if strings.HasPrefix(word, "esdb://") {
			return s, word
		}
	}
	t.Fatalf("no address in %q", line)
	return nil, ""
}

func passwordFile(t *testing.T, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func connectTo(t *testing.T, c esdbstore.Config) (*esdbstore.Store, error) {
	t.Helper()
	s, err := esdbstore.Connect(t.Context(), c, nil)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func TestANodeLetsItsUsersIn(t *testing.T) {
	t.Parallel()
	data, ca := t.TempDir(), tlstest.New(t)
	pair, user := ca.Server("127.0.0.1"), ca.User("report")
	s, uri := listening(t, data, "--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile, "--tls-client-ca", ca.CAFile,
		"--user", "shop", "--password-file", passwordFile(t, "hunter2"), "--user", "report", "--password-file", passwordFile(t, "other"), "--reader", "report")
	shop, err := connectTo(t, esdbstore.Config{URI: uri, User: "shop", Password: "hunter2", CAFile: ca.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	report, err := connectTo(t, esdbstore.Config{URI: uri, CAFile: ca.CAFile, CertFile: user.CertFile, KeyFile: user.KeyFile})
	if err != nil {
		t.Fatal(err)
	}
	if err = shop.Append(t.Context(), "order-1", 0, storetest.Events(1)); err != nil {
		t.Error(err)
	}
	if err = report.Append(t.Context(), "order-1", 1, storetest.Events(1)); !errors.Is(err, event.ErrDenied) {
		t.Errorf("a reader's append: %v", err)
	}
	if _, err = connectTo(t, esdbstore.Config{URI: uri, User: "shop", Password: "hunter3", CAFile: ca.CAFile}); !errors.Is(err, event.ErrDenied) {
		t.Errorf("a wrong password: %v", err)
	}
	socket, err := connectTo(t, esdbstore.Config{URI: "unix://" + ownersSocket(t, data)})
	if err != nil {
		t.Fatal(err)
	}
	if head, err := socket.Head(t.Context()); err != nil || head != 1 {
		t.Errorf("by the socket: %d, %v", head, err)
	}
	if strings.Contains(s.said(), "hunter") {
		t.Errorf("the password is told: %s", s.said())
	}

	first := shown(t, ca, uri)
	renewed := ca.Server("127.0.0.1") // its files are those of the certificate before
	if renewed.CertFile != pair.CertFile {
		t.Fatal("the certificate was not renewed in its place")
	}
	if second := shown(t, ca, uri); first == second {
		t.Error("the renewed certificate is not shown")
	}
	s.stop()
	if out, code := tool(t, "events", "--data", data); code != 0 || strings.Count(out, "\n") != 1 {
		t.Errorf("after the stop: exit %d: %s", code, out)
	}
}

// shown is the number of the certificate that a node shows.
func shown(t *testing.T, ca *tlstest.Authority, uri string) string {
	t.Helper()
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: ca.Pool, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", strings.TrimPrefix(uri, "esdb://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	secured, ok := conn.(*tls.Conn)
	if !ok {
		t.Fatalf("the connection is %T", conn)
	}
	return secured.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestANodeIsNotOpenByMistake(t *testing.T) {
	t.Parallel()
	ca, data := tlstest.New(t), filepath.Join(t.TempDir(), "data")
	pair, password := ca.Server("127.0.0.1"), passwordFile(t, "secret")
	secure := []string{"--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile}
	for name, args := range map[string][]string{
		"for all, plainly":              {"--listen", "0.0.0.0:0"},
		"for all, by any name":          {"--listen", ":0"},
		"TLS and nobody is asked":       append([]string{"--listen", "0.0.0.0:0"}, secure...),
		"a certificate without its key": {"--listen", "127.0.0.1:0", "--tls-cert", pair.CertFile},
		"a key that does not fit":       {"--listen", "127.0.0.1:0", "--tls-cert", pair.CertFile, "--tls-key", ca.User("x").KeyFile},
		"a user without a password":     append([]string{"--listen", "127.0.0.1:0", "--user", "shop"}, secure...),
		"a password without a user":     append([]string{"--listen", "127.0.0.1:0", "--password-file", password}, secure...),
		"a user twice":                  append([]string{"--listen", "127.0.0.1:0", "--user", "a", "--password-file", password, "--user", "a", "--password-file", password}, secure...),
		"a user without TLS":            {"--listen", "127.0.0.1:0", "--user", "shop", "--password-file", password},
		"a password that is not there":  append([]string{"--listen", "127.0.0.1:0", "--user", "shop", "--password-file", password + "x"}, secure...),
		"an empty password":             append([]string{"--listen", "127.0.0.1:0", "--user", "shop", "--password-file", passwordFile(t, "")}, secure...),
		"an authority that is none":     append([]string{"--listen", "127.0.0.1:0", "--tls-client-ca", password}, secure...),
		"a reader who is no user":       append([]string{"--listen", "127.0.0.1:0", "--reader", "nobody", "--user", "shop", "--password-file", password}, secure...),
		"half an address to tell":       {"--listen", "127.0.0.1:0", "--advertise", "node-1"},
		"TLS and nowhere to listen":     secure,
		"a user and nowhere to listen":  {"--user", "shop", "--password-file", password},
	} {
		if out, code := tool(t, append([]string{"node", "--data", data}, args...)...); code != exitUsage {
			t.Errorf("%s: exit %d: %s", name, code, out)
		}
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("a folder was made for nothing")
	}
	s, _ := listening(t, data, "--insecure")
	s.stop()
}

func TestANodeThatCannotListenEnds(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if out, code := tool(t, "node", "--data", data, "--listen", "127.0.0.1:99999"); code != exitFailed {
		t.Errorf("exit %d: %s", code, out)
	}
	s, _ := listening(t, data) // and lets go of its folder
	s.stop()
}

func TestANodeHasItsFolderAlone(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s, _ := listening(t, data)
	if _, code := tool(t, "node", "--data", data); code != exitFailed {
		t.Errorf("a second node: exit %d", code)
	}
	if out, code := tool(t, "status", "--data", data); code != 0 || !strings.Contains(out, "event log") {
		t.Errorf("status: exit %d: %s", code, out)
	}
	s.stop()
}
