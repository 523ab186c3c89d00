package esdbstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
	"cartwright/infra/tlstest"
)

// secret is what no error and no log may ever tell.
const secret = "s3cr3t/pa:ss@word?"

// A port is a node that is reached by TCP, through a door.
type port struct {
	dir, address string
	stop         func()
}

// listen runs a node behind a door, at an address or a new one.
func listen(t *testing.T, dir, address string, d esdbnode.Door) *port {
	t.Helper()
	node, err := esdbnode.Open(esdbnode.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	for deadline := time.Now().Add(patience); listener == nil; {
		if listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp", address); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	served := make(chan error, 1)
	go func() { served <- node.ServeThrough(listener, d) }()
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(node.Close(ctx), <-served); err != nil {
			t.Errorf("stop node: %v", err)
		}
	})
	t.Cleanup(stop)
	return &port{dir, listener.Addr().String(), stop}
}

func guarded(ca *tlstest.Authority) esdbnode.Door {
	return esdbnode.Door{TLS: ca.ServerConfig(), Users: map[string]string{"shop": secret, "report": secret}, ReadOnly: []string{"report"}}
}

func connect(tb testing.TB, c esdbstore.Config) *esdbstore.Store {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	store, err := esdbstore.Connect(ctx, c, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := store.Close(); err != nil {
			tb.Errorf("close store: %v", err)
		}
	})
	return store
}

// TestConformanceOverTLS is TestConformance by TCP, with TLS and a password.
func TestConformanceOverTLS(t *testing.T) {
	ca := tlstest.New(t)
	storetest.Run(t, func(t *testing.T) storetest.Store {
		t.Helper()
		node := listen(t, t.TempDir(), "127.0.0.1:0", guarded(ca))
		return connect(t, esdbstore.Config{URI: "esdb://" + node.address, User: "shop", Password: secret, CAFile: ca.CAFile})
	})
}

func TestThereAreSeveralWaysToSayWhoWeAre(t *testing.T) {
	ca := tlstest.New(t)
	node := listen(t, t.TempDir(), "127.0.0.1:0", guarded(ca))
	user := ca.User("shop")
	escaped := "shop:" + strings.NewReplacer("/", "%2F", ":", "%3A", "@", "%40", "?", "%3F").Replace(secret)
	for name, c := range map[string]esdbstore.Config{
		"all apart":                  {URI: "esdb://" + node.address, User: "shop", Password: secret, CAFile: ca.CAFile},
		"all in the address":         {URI: "esdb://" + escaped + "@" + node.address + "?tlsCAFile=" + ca.CAFile},
		"the same in both":           {URI: "esdb://" + escaped + "@" + node.address + "?tlsCAFile=" + ca.CAFile, User: "shop", Password: secret, CAFile: ca.CAFile},
		"the password apart":         {URI: "esdb://shop@" + node.address + "?tlsCAFile=" + ca.CAFile, Password: secret},
		"a certificate":              {URI: "esdb://" + node.address, CAFile: ca.CAFile, CertFile: user.CertFile, KeyFile: user.KeyFile},
		"a certificate in the URI":   {URI: "esdb://" + node.address + "?tlsCAFile=" + ca.CAFile + "&userCertFile=" + user.CertFile + "&userKeyFile=" + user.KeyFile},
		"without a look at the node": {URI: "esdb://" + node.address + "?tlsVerifyCert=false", User: "shop", Password: secret},
		"discovery":                  {URI: "esdb+discover://" + node.address, User: "shop", Password: secret, CAFile: ca.CAFile},
		"one who may only read":      {URI: "esdb://" + node.address, User: "report", Password: secret, CAFile: ca.CAFile},
	} {
		t.Run(name, func(t *testing.T) {
			store := connect(t, c)
			if _, err := store.Head(t.Context()); err != nil {
				t.Error(err)
			}
			err := store.Append(t.Context(), "s-"+name, 0, storetest.Events(1))
			if readOnly := c.User == "report"; readOnly != errors.Is(err, event.ErrDenied) || !readOnly && err != nil {
				t.Errorf("append: %v", err)
			}
		})
	}
}

// TestWhatWillNeverGetBetterEndsOpenAtOnce opens in ways that no waiting helps,
// with all the time in the world.
func TestWhatWillNeverGetBetterEndsOpenAtOnce(t *testing.T) {
	ca, other := tlstest.New(t), tlstest.New(t)
	node := listen(t, t.TempDir(), "127.0.0.1:0", guarded(ca))
	plain := listen(t, t.TempDir(), "127.0.0.1:0", esdbnode.Door{})
	expired := listen(t, t.TempDir(), "127.0.0.1:0", esdbnode.Door{TLS: ca.Config(ca.Expired("127.0.0.1"))})
	elsewhere := listen(t, t.TempDir(), "127.0.0.1:0", esdbnode.Door{TLS: ca.Config(ca.Server("db.example"))})
	onlyCerts := listen(t, t.TempDir(), "127.0.0.1:0", esdbnode.Door{TLS: ca.ServerConfig()})
	stranger := other.User("shop")
	for name, c := range map[string]struct {
		config esdbstore.Config
		says   string
	}{
		"a wrong password":                {esdbstore.Config{URI: "esdb://" + node.address, User: "shop", Password: secret + "x", CAFile: ca.CAFile}, "credentials are wrong"},
		"no password":                     {esdbstore.Config{URI: "esdb://" + node.address, CAFile: ca.CAFile}, "credentials are missing"},
		"an unknown user":                 {esdbstore.Config{URI: "esdb://" + node.address, User: "root", Password: secret, CAFile: ca.CAFile}, "credentials are wrong"},
		"another authority":               {esdbstore.Config{URI: "esdb://" + node.address, User: "shop", Password: secret, CAFile: other.CAFile}, "unknown authority"},
		"another authority by discovery":  {esdbstore.Config{URI: "esdb+discover://" + node.address, User: "shop", Password: secret, CAFile: other.CAFile}, "unknown authority"},
		"the system's authorities":        {esdbstore.Config{URI: "esdb://" + node.address, User: "shop", Password: secret}, "unknown authority"},
		"several, all of other authority": {esdbstore.Config{URI: "esdb://" + node.address + "," + nobody(t), User: "shop", Password: secret, CAFile: other.CAFile}, "unknown authority"},
		"an expired certificate":          {esdbstore.Config{URI: "esdb://" + expired.address, CAFile: ca.CAFile}, "expired"},
		"another host's certificate":      {esdbstore.Config{URI: "esdb://" + elsewhere.address, CAFile: ca.CAFile}, "127.0.0.1"},
		"a node without TLS":              {esdbstore.Config{URI: "esdb://" + plain.address, CAFile: ca.CAFile}, "TLS"},
		"a certificate that is not taken": {esdbstore.Config{URI: "esdb://" + onlyCerts.address, CAFile: ca.CAFile, CertFile: stranger.CertFile, KeyFile: stranger.KeyFile}, "remote error"},
		"no certificate, and one is due":  {esdbstore.Config{URI: "esdb://" + onlyCerts.address, User: "shop", Password: secret, CAFile: ca.CAFile}, "remote error"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			store, err := esdbstore.Connect(t.Context(), c.config, nil)
			if err == nil {
				_ = store.Close()
			}
			if !errors.Is(err, event.ErrDenied) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), secret) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestOpenEndsWhenTheNodeThatComesUpIsTheWrongOne begins before there is a node.
func TestOpenEndsWhenTheNodeThatComesUpIsTheWrongOne(t *testing.T) {
	ca, other := tlstest.New(t), tlstest.New(t)
	address := nobody(t)
	opened := make(chan error, 1)
	go func() {
		_, err := esdbstore.Connect(t.Context(), esdbstore.Config{URI: "esdb://" + address, User: "shop", Password: secret, CAFile: other.CAFile}, nil)
		opened <- err
	}()
	time.Sleep(50 * time.Millisecond) // wherever that finds it
	node := listen(t, t.TempDir(), address, guarded(ca))
	select {
	case err := <-opened:
		if !errors.Is(err, event.ErrDenied) {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Error("it still waits")
	}
	node.stop()
	listen(t, t.TempDir(), address, guarded(other)) // the client that was left behind finds it, and ends
	for deadline := time.Now().Add(patience); strings.Contains(stacks(), "getConnectionHandle"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a call is still in the client")
		}
	}
}

// TestARightThatIsTakenAwayIsNoOutage restarts the node without our user.
func TestARightThatIsTakenAwayIsNoOutage(t *testing.T) {
	ca := tlstest.New(t)
	node := listen(t, t.TempDir(), "127.0.0.1:0", guarded(ca))
	store := connect(t, esdbstore.Config{URI: "esdb://" + node.address, User: "shop", Password: secret, CAFile: ca.CAFile})
	if err := store.Append(t.Context(), "order-1", 0, storetest.Events(1)); err != nil {
		t.Fatal(err)
	}
	following := make(chan error, 1)
	go func() { following <- last(store.Follow(t.Context(), 0)) }()
	node.stop()
	without := guarded(ca)
	without.Users = map[string]string{"other": secret}
	without.ReadOnly = nil
	listen(t, node.dir, node.address, without)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, err := store.Head(ctx); !errors.Is(err, event.ErrDenied); _, err = store.Head(ctx) {
		if ctx.Err() != nil {
			t.Fatalf("got %v", err)
		}
	}
	storetest.Denied(t, store)
	select {
	case err := <-following:
		if !errors.Is(err, event.ErrDenied) {
			t.Errorf("the follower ended with %v", err)
		}
	case <-ctx.Done():
		t.Error("a follower that is denied goes on asking")
	}
}

// nobody is an address at which nobody answers.
func nobody(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

func TestSeveralHostsOfWhichOneIsDead(t *testing.T) {
	ca := tlstest.New(t)
	node := listen(t, t.TempDir(), "127.0.0.1:0", guarded(ca))
	dead := nobody(t)
	for i, uri := range []string{
		"esdb://" + dead + "," + node.address,
		"esdb://" + node.address + "," + dead,
		"esdb+discover://" + dead + "," + node.address,
		"esdb+discover://" + node.address + "," + dead + "?gossipTimeout=2&nodePreference=follower",
	} {
		store := connect(t, esdbstore.Config{URI: uri, User: "shop", Password: secret, CAFile: ca.CAFile})
		if err := store.Append(t.Context(), "s", event.Revision(i), storetest.Events(1)); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// TestNoErrorTellsASecret opens in all the ways that do not work, with the
// password in all the places where it may stand.
func TestNoErrorTellsASecret(t *testing.T) {
	pem := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(pem, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, c := range []esdbstore.Config{
		{URI: "esdb://shop:hunter2@host/path"},
		{URI: "esdb://shop:hun/ter2@host"},
		{URI: "esdb://shop:hunter2%@host"},
		{URI: "esdb://shop:%hunter2@host"},
		{URI: "esdb://shop:hunter2?@host"},
		{URI: "esdb://shop:hunter2#@host"},
		{URI: "esdb://shop:hunter2@x@host:port"},
		{URI: "esdb://:hunter2@host"},
		{URI: "esdb://shop:hunter2@host:port"},
		{URI: "esdb://shop:hunter2@host?tls=false"},
		{URI: "esdb://shop:hunter2@host?tls=maybe"},
		{URI: "esdb://shop:hunter2@host,other:x"},
		{URI: "esdb://shop:hunter2@host?tlsVerifyCrt=false"},
		{URI: "esdb://shop:hunter2@host?tls=true&tls=false"},
		{URI: "esdb://shop:hunter2@host?userCertFile=/nowhere"},
		{URI: "http://shop:hunter2@host"},
		{URI: "esdb://shop:hunter2@host", Password: "hunter3"},
		{URI: "esdb://shop:hunter2@host", User: "other", Password: "hunter2"},
		{URI: "esdb://host", Password: "hunter2"},
		{URI: "esdb://host", User: "shop"},
		{URI: "esdb://host?tls=false", User: "shop", Password: "hunter2"},
		{URI: "esdb://host?tls=false", CAFile: pem},
		{URI: "esdb://host", User: "shop", Password: "hunter2", CAFile: pem},
		{URI: "esdb://host", User: "shop", Password: "hunter2", CAFile: pem + "x"},
		{URI: "esdb://host", User: "shop", Password: "hunter2", CertFile: pem},
		{URI: "esdb://host", User: "shop", Password: "hunter2", CertFile: pem, KeyFile: pem},
		{URI: "esdb://host?tls=false", CertFile: pem, KeyFile: pem},
		{URI: "unix:///run/node.sock", User: "shop", Password: "hunter2"},
		{URI: "unix:///run/node.sock", CAFile: pem},
	} {
		store, err := esdbstore.Connect(t.Context(), c, log)
		if err == nil {
			_ = store.Close()
			t.Errorf("%#v was opened", c)
			continue
		}
		log.Info("refused", "config", c, "err", err)
		for _, text := range []string{err.Error(), fmt.Sprint(c), fmt.Sprintf("%+v %#v", c, c), said.String()} {
			if strings.Contains(text, "hunter") || strings.Contains(text, "ter2") {
				t.Fatalf("the password is told: %s", text)
			}
		}
	}
}

func TestOneWhoWaitsInVainIsToldWhatFor(t *testing.T) {
	address := nobody(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := esdbstore.Open(ctx, "esdb://"+address+"?tls=false", nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	listen(t, t.TempDir(), address, esdbnode.Door{}) // the client that was left behind finds it, and ends
	for deadline := time.Now().Add(patience); strings.Contains(stacks(), "getConnectionHandle"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a call is still in the client")
		}
	}
}
