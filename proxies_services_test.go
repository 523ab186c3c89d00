//go:build integration

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

// An httpProxy stands before a server and answers in its place, as its mode says:
// a status, dead (connections break), half (every second request breaks off after
// it was carried out), or 0, which lets everything through.
type httpProxy struct {
	url  string
	mode atomic.Int64
}

const (
	dead = 1
	half = 2
)

func newHTTPProxy(tb testing.TB, to string) *httpProxy {
	tb.Helper()
	target, err := url.Parse(to)
	if err != nil {
		tb.Fatal(err)
	}
	p := &httpProxy{}
	through := httputil.NewSingleHostReverseProxy(target)
	through.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch mode := p.mode.Load(); {
		case mode == dead:
			panic(http.ErrAbortHandler)
		case mode == half && n.Add(1)%2 == 0:
			through.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case mode > half:
			w.WriteHeader(int(mode))
		default:
			through.ServeHTTP(w, r)
		}
	}))
	tb.Cleanup(srv.Close)
	p.url = srv.URL
	return p
}

// newTCPProxy stands before a server. Slow says by how many milliseconds it
// delays what the server says, "" by none.
func newTCPProxy(tb testing.TB, to string) (slow func(ms string), address string) {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address = l.Addr().String()
	_ = l.Close()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, "tcp", address, to)
	if err := proxy.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(proxy.Stop)
	return func(ms string) {
		tb.Helper()
		if ms == "" {
			proxy.Toxics.ResetToxics(context.WithoutCancel(tb.Context()))
			return
		}
		toxic := fmt.Sprintf(`{"name":"slow","type":"latency","stream":"downstream","attributes":{"latency":%s}}`, ms)
		if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			tb.Fatal(err)
		}
	}, address
}

func flush(tb testing.TB, address string) {
	tb.Helper()
	client := redis.NewClient(&redis.Options{Addr: address})
	if err := client.FlushAll(tb.Context()).Err(); err != nil {
		tb.Fatal(err)
	}
	if err := client.Close(); err != nil {
		tb.Fatal(err)
	}
}
