package metrics

import (
	"maps"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// request is what requests are told apart by.
type request struct {
	method, route string
	class         int
}

type series struct {
	count prometheus.Counter
	took  prometheus.Observer
}

// Served counts a request that was answered. Route is the pattern that it
// matched, "" for none; slug is its problem's, "" for none.
func (m *Metrics) Served(method, route string, status int, slug string, took time.Duration) {
	key := request{method, route, status / 100}
	s, known := series{}, false
	if all := m.series.Load(); all != nil {
		s, known = (*all)[key]
	}
	if !known {
		s = m.open(key)
	}
	s.count.Inc()
	s.took.Observe(took.Seconds())
	if slug != "" {
		m.problems.WithLabelValues(slug).Inc()
	}
}

// open finds the series of requests of a kind. Those of a route are remembered:
// there are few, so that all of them are copied when one is added, and nobody
// who looks them up waits. Others are not, since callers make their methods up.
func (m *Metrics) open(key request) series {
	method, route, code := key.method, key.route, class(key.class)
	if route == "" {
		method, route = known(method), "none"
	}
	s := series{m.requests.WithLabelValues(method, route, code), m.took.WithLabelValues(method, route)}
	if key.route == "" {
		return s
	}
	for {
		all := m.series.Load()
		more := map[request]series{key: s}
		if all != nil {
			maps.Copy(more, *all)
		}
		if m.series.CompareAndSwap(all, &more) {
			return s
		}
	}
}

// class of a status; "other" for what is none, so that there are six at most.
func class(hundreds int) string {
	classes := [...]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}
	if hundreds < 0 || hundreds >= len(classes) {
		return classes[0]
	}
	return classes[hundreds]
}

// known is a method, if it is one of HTTP's.
func known(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	default:
		return "other"
	}
}
