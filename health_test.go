package main

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// health runs the command as main does and gives its error, and its exit code.
func health(t *testing.T, data string, args ...string) (code int, err error) {
	t.Helper()
	cmd := newHealthCommand(config{Data: data})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append([]string{}, args...)) // nil would be the test's own
	cmd.SetOut(io.Discard)
	err = cmd.ExecuteContext(t.Context())
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code, err
	}
	if err != nil {
		return exitFailed, err
	}
	return 0, nil
}

func TestARunningProcessIsWellAndAStoppedOneIsNot(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	for _, args := range [][]string{nil, {"--url", s.url + "/readyz"}, {"--url", s.url + "/healthz"}} {
		if code, err := health(t, s.data, args...); code != 0 {
			t.Errorf("health %v: got %d, want 0: %v", args, code, err)
		}
	}
	s.stop()
	for _, args := range [][]string{nil, {"--url", s.url + "/readyz"}} {
		if code, err := health(t, s.data, args...); code != exitFailed {
			t.Errorf("health %v of what has stopped: got %d, want %d: %v", args, code, exitFailed, err)
		}
	}
}

func TestAProcessThatWasKilledIsNotWell(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.kill()
	if code, err := health(t, s.data); code != exitFailed {
		t.Errorf("got %d, want %d: %v", code, exitFailed, err)
	}
}

func TestOnly2xxIsWell(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]int{
		http.StatusOK: 0, http.StatusNoContent: 0,
		http.StatusFound: exitFailed, http.StatusNotFound: exitFailed, http.StatusServiceUnavailable: exitFailed,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		}))
		if code, err := health(t, t.TempDir(), "--url", srv.URL+"/readyz"); code != want {
			t.Errorf("an answer of %d: got %d, want %d: %v", status, code, want, err)
		}
		srv.Close()
	}
}

func TestWhatIsNotReadySaysWhy(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "check:event_log", http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	if _, err := health(t, t.TempDir(), "--url", srv.URL+"/readyz"); err == nil || !strings.Contains(err.Error(), "check:event_log") {
		t.Errorf("got %v", err)
	}
}

func TestACheckWaitsNoLongerThanItsTimeout(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		close(asked)
		<-req.Context().Done()
	}))
	defer srv.Close()
	began := time.Now()
	code, err := health(t, t.TempDir(), "--url", srv.URL, "--timeout", "200ms")
	if code != exitFailed {
		t.Errorf("got %d, want %d: %v", code, exitFailed, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	<-asked
}

func TestAHealthCheckThatMakesNoSenseIsAUsageError(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--url", "127.0.0.1:8080"}, {"--url", "ftp://127.0.0.1/"}, {"--url", "http://"}, {"--timeout", "0s"}, {"--timeout", "-1s"}, {"now"},
	} {
		if code, err := health(t, t.TempDir(), args...); code != exitUsage {
			t.Errorf("health %v: got %d, want %d: %v", args, code, exitUsage, err)
		}
	}
}
