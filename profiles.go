package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"

	"golang.org/x/sync/errgroup"
)

// startProfiles listens for profilers where it is told to, which is on this
// machine only: go tool pprof http://127.0.0.1:6060/debug/pprof/profile. They are
// at run/admin.sock in any case, which go tool pprof can't ask.
func (r *running) startProfiles(ctx context.Context, g *errgroup.Group) error {
	if r.cfg.Pprof == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", r.cfg.Pprof)
	if err != nil {
		return fmt.Errorf("listen for profilers: %w", err)
	}
	mux := http.NewServeMux()
	profiles(mux)
	r.serveHTTP(ctx, g, l, mux)
	if r.folder != nil {
		return r.folder.write("pprof", "http://"+l.Addr().String()+"/debug/pprof/")
	}
	return nil
}

// profiles adds what profilers ask for.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
