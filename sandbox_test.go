package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"cartwright/commands"
	"cartwright/domain/money"
	"cartwright/infra/sandboxpay"
)

// A sandboxRun is the command at work in this process.
type sandboxRun struct {
	URL  string
	stop func() (last string, err error)
}

func sandboxSecret(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func sandboxCommand(out io.Writer, args ...string) *cobra.Command {
	cmd := newSandboxChannelCommand()
	cmd.SetArgs(append([]string{}, args...)) // nil would be the test's own
	cmd.SetOut(out)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	return cmd
}

func startSandbox(t *testing.T, args ...string) sandboxRun {
	t.Helper()
	r, w := io.Pipe()
	cmd := sandboxCommand(w, append([]string{"--listen", "127.0.0.1:0", "--merchant", "m1", "--json"}, args...)...)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() {
		failed = cmd.ExecuteContext(ctx)
		_ = w.CloseWithError(errors.Join(io.EOF, failed)) // it always gives nil
	})
	lines := bufio.NewScanner(r)
	if !lines.Scan() {
		cancel()
		wg.Wait()
		t.Fatalf("it is not ready: %v", failed)
	}
	var first struct{ Ready sandboxReady }
	if err := json.Unmarshal(lines.Bytes(), &first); err != nil || first.Ready.Merchant != "m1" {
		t.Fatalf("%s: %v", lines.Text(), err)
	}
	var once sync.Once
	var last string
	run := sandboxRun{URL: first.Ready.URL, stop: func() (string, error) {
		once.Do(func() {
			cancel()
			for lines.Scan() {
				last = lines.Text()
			}
			wg.Wait()
		})
		return last, failed
	}}
	t.Cleanup(func() { _, _ = run.stop() })
	return run
}

func (r sandboxRun) client(t *testing.T, secret string) *sandboxpay.Client {
	t.Helper()
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	c, err := sandboxpay.New(sandboxpay.Config{URL: r.URL, Merchant: "m1", Secret: secret, HTTP: web})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheSandboxChannelTakesPaymentsAndCallsBack(t *testing.T) {
	t.Parallel()
	heard := make(chan commands.Notice, 10)
	var c *sandboxpay.Client
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			var ns []commands.Notice
			if ns, err = c.Read(r.Context(), r.Header, body); err == nil {
				heard <- ns[0]
			}
		}
		code, _, answer := c.Answer(err)
		w.WriteHeader(code)
		_, _ = w.Write(answer)
	}))
	defer shop.Close()
	dir := t.TempDir()
	args := []string{"--secret-file", sandboxSecret(t, "s1\n"), "--notify", shop.URL, "--dir", dir, "--auto-pay", "10ms"}
	s := startSandbox(t, args...)
	c = s.client(t, "s1")
	if _, err := c.Ask(t.Context(), commands.Asking{Payment: "p-1", Total: money.Money{Amount: 500, Currency: "CNY"}}); err != nil {
		t.Fatal(err)
	}
	var told commands.Notice
	select {
	case told = <-heard:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody calls back")
	}
	if told.Kind != commands.NoticePaid || told.Payment != "p-1" || told.Money.Amount != 500 {
		t.Errorf("told %+v", told)
	}
	last, err := s.stop()
	var end struct{ Stopped sandboxpay.Status }
	if uerr := json.Unmarshal([]byte(last), &end); err != nil || uerr != nil || end.Stopped.Paid != 1 || end.Stopped.Dropped != 0 {
		t.Errorf("it stopped with %s, %v, %v", last, err, uerr)
	}
	// Another start, with a new secret, finds what was paid.
	again := startSandbox(t, "--secret-file", sandboxSecret(t, "s2"), "--old-secret-file", args[1], "--dir", dir)
	for _, secret := range []string{"s1", "s2"} {
		if n, ferr := again.client(t, secret).Find(t.Context(), "p-1"); ferr != nil || n != told {
			t.Errorf("after the restart, by %s: %+v, %v", secret, n, ferr)
		}
	}
	second := sandboxCommand(io.Discard, "--listen", "127.0.0.1:0", "--merchant", "m1", "--secret-file", args[1], "--dir", dir)
	if err = second.ExecuteContext(t.Context()); exitOf(err) != exitFailed || !strings.Contains(err.Error(), dir) {
		t.Errorf("two in one folder: exit %d, %v", exitOf(err), err)
	}
	if _, err = again.stop(); err != nil {
		t.Error(err)
	}
}

func TestTheSandboxChannelRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	file := sandboxSecret(t, "s1")
	good := []string{"--listen", "127.0.0.1:0", "--merchant", "m1", "--secret-file", file}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nothing at all":         {nil, "--merchant"},
		"no secret":              {[]string{"--merchant", "m1"}, "--secret-file"},
		"a secret of nothing":    {[]string{"--merchant", "m1", "--secret-file", sandboxSecret(t, "\n")}, "empty"},
		"a secret nowhere":       {[]string{"--merchant", "m1", "--secret-file", file + "x"}, "--secret-file"},
		"an old secret nowhere":  {append(good, "--old-secret-file", file+"x"), "--old-secret-file"},
		"every address":          {append(good, "--listen", "0.0.0.0:0"), "--anywhere"},
		"no host":                {append(good, "--listen", ":0"), "--anywhere"},
		"an address of others":   {append(good, "--listen", "192.0.2.1:80"), "--anywhere"},
		"a share above 1":        {append(good, "--drop", "1.5"), "0 to 1"},
		"shares above 1":         {append(good, "--drop", "0.6", "--repeat", "0.6"), "together"},
		"a share of none":        {append(good, "--fail-share", "0.5"), "--auto-pay"},
		"nobody to call":         {append(good, "--notify", "shop"), "calls back"},
		"no workers":             {append(good, "--workers", "0"), "--workers"},
		"negative time":          {append(good, "--auto-pay", "-1s"), "negative"},
		"an argument":            {append(good, "more"), "more"},
		"a merchant with spaces": {append(good, "--merchant", "m 1"), "merchant"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var out bytes.Buffer
		err := sandboxCommand(&out, c.args...).ExecuteContext(ctx)
		if exitOf(err) != exitUsage || !strings.Contains(err.Error(), c.want) || out.Len() > 0 {
			t.Errorf("%s: exit %d, %v, want %q; it said %q", name, exitOf(err), err, c.want, out.String())
		}
		cancel()
	}
}

func TestTheSandboxChannelListensElsewhereOnlyIfToldTo(t *testing.T) {
	t.Parallel()
	s := startSandbox(t, "--secret-file", sandboxSecret(t, "s1"), "--listen", "0.0.0.0:0", "--anywhere")
	if last, err := s.stop(); err != nil || !strings.Contains(last, "stopped") {
		t.Errorf("%s, %v", last, err)
	}
}

func TestTheSandboxChannelSaysForPeopleHowItWent(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	out := writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "ready: http://127.0.0.1:") {
			cancel()
		}
		if !strings.HasPrefix(string(p), "cartwright sandbox-channel ") || strings.Count(string(p), "\n") != 1 {
			t.Errorf("it said %q", p)
		}
		return len(p), nil
	})
	cmd := sandboxCommand(out, "--listen", "127.0.0.1:0", "--merchant", "m1", "--secret-file", sandboxSecret(t, "s1"))
	if err := cmd.ExecuteContext(ctx); err != nil {
		t.Error(err)
	}
}
