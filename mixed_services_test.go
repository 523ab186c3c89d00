//go:build integration

package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cartwright/infra/services"
	"cartwright/infra/tlstest"
)

// story lets a shop have one order, and finds it wherever it should be.
func (s *server) story() {
	s.tb.Helper()
	s.offer("mixed", "seller-1", 500, 10)
	s.fund(10_000)
	id := s.bought("mixed")
	eventually(s.tb, "what was paid is settled", func() bool { return s.revision(id) == 4 })
	for _, path := range []string{
		"/v1/buyers/buyer-1/orders", "/v1/buyers/buyer-1/orders?status=paid", "/v1/sellers/seller-1/orders", "/v1/sellers/seller-1/orders?q=mixed",
	} {
		eventually(s.tb, path+" has the order", func() bool {
			a, err := s.try("GET", path, nil)
			return err == nil && strings.Contains(a.raw, id)
		})
	}
	eventually(s.tb, "the summary has it", func() bool {
		a, err := s.try("GET", "/v1/sellers/seller-1/summary", nil)
		return err == nil && number(a.body["orders"]) == 1
	})
	eventually(s.tb, "stock and money have moved", func() bool {
		stock, err1 := s.try("GET", "/v1/inventory/mixed", nil)
		account, err2 := s.try("GET", "/v1/accounts/buyer-1", nil)
		return err1 == nil && err2 == nil && number(stock.body["allocated"]) == 1 && strings.Contains(account.raw, `"balance":{"amount":9500,`)
	})
	s.ask(http.StatusOK, "GET", "/v1/skus/mixed", nil)
}

// Each backend is chosen on its own.
func TestBackendsAreMixedAtWill(t *testing.T) {
	for name, env := range map[string]services.Env{
		"Kafka alone":             {Kafka: world.Kafka},
		"Elasticsearch alone":     {Elasticsearch: world.Elasticsearch},
		"Redis alone":             {Redis: world.Redis},
		"Kafka and Redis":         {Kafka: world.Kafka, Redis: world.Redis},
		"Kafka and Elasticsearch": {Kafka: world.Kafka, Elasticsearch: world.Elasticsearch},
		"Elasticsearch and Redis": {Elasticsearch: world.Elasticsearch, Redis: world.Redis},
		"a cluster of Redis":      {Redis: strings.Join(world.RedisCluster, ",")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			sweep(t, data)
			with := settings(namespace(data), env)
			if name == "a cluster of Redis" {
				with = append(with, "CARTWRIGHT_REDIS_CLUSTER=true")
			}
			cmd := program(context.WithoutCancel(t.Context()), "serve", "--data", data, "--listen", "127.0.0.1:0")
			cmd.Env = append(cmd.Env, with...)
			s := start(t, data, cmd)
			s.story()
			s.stop()
			check := program(t.Context(), "verify", "--data", data)
			check.Env = append(check.Env, with...)
			if out, code := finish(t, check); code != 0 {
				t.Errorf("verify: exit %d: %s", code, out)
			}
		})
	}
}

// Every way to every server is by TLS, with a login.
func TestEverythingIsReachedByTLSWithALogin(t *testing.T) {
	t.Setenv("ES_SECURE", "1")
	elasticsearch := services.Start(t, "elasticsearch")
	ca, dir := tlstest.New(t), t.TempDir()
	pair := ca.Server("127.0.0.1")
	password, kafkaPassword := passwordFile(t, "a secret"), passwordFile(t, world.Password)
	key := filepath.Join(dir, "master.key")
	if err := os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	node, uri := listening(t, home, "--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile, "--user", "shop", "--password-file", password)
	data := t.TempDir()
	sweep(t, data)
	cmd := program(context.WithoutCancel(t.Context()), "serve", "--data", data, "--listen", "127.0.0.1:0")
	with := append(settings(namespace(data), world),
		"CARTWRIGHT_EVENTSTORE="+uri, "CARTWRIGHT_EVENTSTORE_USER=shop", "CARTWRIGHT_EVENTSTORE_PASSWORD_FILE="+password,
		"CARTWRIGHT_EVENTSTORE_CA_FILE="+ca.CAFile, "CARTWRIGHT_MASTER_KEY_FILE="+key,
		"CARTWRIGHT_KAFKA="+strings.Join(world.KafkaSecure, ","), "CARTWRIGHT_KAFKA_SASL=SCRAM-SHA-512",
		"CARTWRIGHT_KAFKA_USER="+world.User, "CARTWRIGHT_KAFKA_PASSWORD_FILE="+kafkaPassword, "CARTWRIGHT_KAFKA_CA_FILE="+world.CA,
		"CARTWRIGHT_ELASTICSEARCH="+strings.Join(elasticsearch.Elasticsearch, ","), "CARTWRIGHT_ELASTICSEARCH_USER="+elasticsearch.User,
		"CARTWRIGHT_ELASTICSEARCH_PASSWORD="+elasticsearch.Password, "CARTWRIGHT_ELASTICSEARCH_CA_FILE="+elasticsearch.CA,
		"CARTWRIGHT_REDIS="+world.RedisSecure, "CARTWRIGHT_REDIS_USER="+world.User, "CARTWRIGHT_REDIS_PASSWORD="+world.Password,
		"CARTWRIGHT_REDIS_CA_FILE="+world.CA,
	)
	cmd.Env = append(cmd.Env, with...)
	s := start(t, data, cmd)
	s.story()
	check := program(t.Context(), "verify", "--data", t.TempDir())
	check.Env = append(check.Env, with...)
	if out, code := finish(t, check); code != 0 {
		t.Errorf("verify: exit %d: %s", code, out)
	}
	if said := s.said() + node.said(); strings.Contains(said, world.Password) || strings.Contains(said, "a secret") {
		t.Errorf("a password is in the log: %s", said)
	}

	// A wrong password is told at once, by each, and not shown.
	for _, wrong := range []string{
		"CARTWRIGHT_EVENTSTORE_PASSWORD_FILE=" + kafkaPassword, "CARTWRIGHT_KAFKA_PASSWORD_FILE=" + password, "CARTWRIGHT_ELASTICSEARCH_PASSWORD=hunter2",
	} {
		bad := program(t.Context(), "serve", "--data", t.TempDir(), "--listen", "127.0.0.1:0")
		bad.Env = append(append(bad.Env, with...), wrong)
		if _, code := finish(t, bad); code != exitFailed {
			t.Errorf("%s: exit %d", strings.Split(wrong, "=")[0], code)
		}
	}
}
