package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTimeout is how long a check waits unless it is told otherwise: less
// than what container engines give a check.
const healthTimeout = 3 * time.Second

// newHealthCommand makes the check that a container engine or a supervisor
// runs. It is a command of its own because the image has no shell and no curl.
func newHealthCommand(cfg config) *cobra.Command {
	var address string
	timeout := healthTimeout
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Say by the exit code whether a part is well",
		Long: `Ask a running part whether it is well: exit code 0 says yes, 1 no.

With --url the address has to answer 2xx: /readyz of an HTTP API says whether
what it needs answers it, /healthz only that the process is there. Without it
the process that owns the data folder is asked, over its socket there, which
every part has that could take the folder: it answers if its event log does.

  cartwright health
  cartwright health --url http://127.0.0.1:8080/readyz`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usage(errors.New("the timeout is positive"))
			}
			target, err := parseHealthURL(address)
			if err != nil {
				return usage(err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if target == nil {
				err = askOwner(ctx, cfg, job{Do: "status"}, func(news) error { return nil })
			} else {
				err = checkURL(ctx, target)
			}
			if err != nil {
				return fmt.Errorf("not well: %w", err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "well")
			return err
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().StringVar(&address, "url", "", "ask this address instead of the owner of the data folder")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long the answer may take")
	return cmd
}

// parseHealthURL gives nil where there is no address.
func parseHealthURL(address string) (*url.URL, error) {
	if address == "" {
		return nil, nil //nolint:nilnil // no address is an answer
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("url %q is no address like http://127.0.0.1:8080/readyz", address)
	}
	return u, nil
}

// checkURL expects 2xx. No proxy is asked, since the part is on this machine,
// and no redirect followed, since it sends none.
func checkURL(ctx context.Context, target *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("%s answers %s %s", target, resp.Status, strings.TrimSpace(string(said)))
	}
	return nil
}
