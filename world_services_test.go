//go:build integration

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/redis/go-redis/v9"

	"cartwright/domain/event"
	"cartwright/infra/elasticviews"
	"cartwright/infra/services"
	"cartwright/projections"
)

// The same scenarios run on real Kafka, Elasticsearch and Redis, with the log
// in the data folder. Each data folder has a namespace of its own.
const realServers = true

// viewPatience is how long the views may take to follow: after a kill a broker waits
// for the dead member's session to end.
const viewPatience = time.Minute

var world services.Env

func prepareWorld() (err error) {
	path := os.Getenv(services.Variable)
	if path == "" {
		return errors.New(services.Variable + " is not set: run `make integration`")
	}
	world, err = services.Load(path)
	return err
}

// backends are the settings of a command line's servers. One that says itself
// where they are has its way.
func backends(args []string) []string {
	i := slices.Index(args, "--data")
	if i < 0 || i+1 == len(args) || os.Getenv("CARTWRIGHT_KAFKA") != "" {
		return nil
	}
	return settings(namespace(args[i+1]), world)
}

// settings are those of the servers of an environment.
func settings(ns string, e services.Env) []string {
	return []string{
		"CARTWRIGHT_NAMESPACE=" + ns,
		"CARTWRIGHT_KAFKA=" + strings.Join(e.Kafka, ","),
		"CARTWRIGHT_ELASTICSEARCH=" + strings.Join(e.Elasticsearch, ","),
		"CARTWRIGHT_ELASTICSEARCH_REPLICAS=0",
		"CARTWRIGHT_REDIS=" + e.Redis,
	}
}

// namespace is that of a data folder.
func namespace(data string) string {
	sum := sha256.Sum256([]byte(data))
	return "t" + hex.EncodeToString(sum[:6])
}

// simulated is where a simulation keeps its views.
func simulated(tb testing.TB) config {
	tb.Helper()
	cfg := config{Namespace: namespace(tb.TempDir()), Elasticsearch: world.Elasticsearch}
	cfg.ElasticsearchIndex.Shards = 1
	if world.Redis != "" {
		cfg.Redis = []string{world.Redis}
	}
	sweepNamespace(tb, cfg.Namespace)
	return cfg
}

// spoil puts a wrong document into the order index of a data folder.
func spoil(tb testing.TB, data, stream string, at event.Revision) {
	tb.Helper()
	cfg := elasticviews.Config{Addresses: world.Elasticsearch, Namespace: namespace(data), Log: slog.New(slog.DiscardHandler)}
	db, err := elasticviews.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	orders, err := elasticviews.NewOrders(tb.Context(), db)
	if err == nil {
		err = orders.Live().Repair(tb.Context(), []projections.Doc[projections.Order]{wrongOrder(stream, at)})
	}
	if err = errors.Join(err, db.Close()); err != nil {
		tb.Fatal(err)
	}
}

// sweep removes what a data folder has on the servers, at the end of a test.
func sweep(tb testing.TB, data string) {
	tb.Helper()
	sweepNamespace(tb, namespace(data))
}

func sweepNamespace(tb testing.TB, ns string) {
	tb.Helper()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
		defer cancel()
		if err := errors.Join(sweepElasticsearch(ctx, ns), sweepRedis(ctx, ns), sweepKafka(ns)); err != nil {
			tb.Logf("%s is left behind: %v", ns, err)
		}
	})
}

func sweepElasticsearch(ctx context.Context, ns string) error {
	var indices []struct{ Index string }
	if err := elastic(ctx, http.MethodGet, "/_cat/indices/"+ns+"-*?format=json&h=index&expand_wildcards=all", &indices); err != nil {
		return err
	}
	for _, i := range indices {
		if err := elastic(ctx, http.MethodDelete, "/"+i.Index, nil); err != nil {
			return err
		}
	}
	return elastic(ctx, http.MethodDelete, "/_index_template/"+ns+"-*", nil)
}

// elastic asks Elasticsearch; what isn't there is no error.
func elastic(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, world.Elasticsearch[0]+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotFound {
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	if into == nil || resp.StatusCode == http.StatusNotFound {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

func sweepRedis(ctx context.Context, ns string) error {
	if world.Redis == "" {
		return nil
	}
	client := redis.NewClient(&redis.Options{Addr: world.Redis})
	defer func() { _ = client.Close() }()
	keys := client.Scan(ctx, 0, "*"+ns+"*", 1000).Iterator()
	for keys.Next(ctx) {
		if err := client.Unlink(ctx, keys.Val()).Err(); err != nil {
			return err
		}
	}
	return keys.Err()
}

func sweepKafka(ns string) error {
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin(world.Kafka, cfg)
	if err != nil {
		return err
	}
	err = admin.DeleteTopic(ns + ".events")
	if errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		err = nil
	}
	return errors.Join(err, admin.Close())
}
