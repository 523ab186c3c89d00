// Package services is how the project runs real servers without containers:
// Kafka, Elasticsearch and Redis from published packages, on this machine's
// loopback, with their data in one folder. This package reads what up.sh wrote,
// and kills and starts servers, for tests.
//
//	up.sh DIR              starts what does not run, and says where it is
//	down.sh DIR            stops what up.sh started, and nothing else
//	down.sh DIR kafka      stops one service; up.sh starts it again on the same ports
//	kill -9 $(cat DIR/kafka/pid)
//
// up.sh prints, and keeps in DIR/env, the lines that Env is made of: NAME=VALUE.
// It installs what it needs by apt-get (as root; otherwise it says what is
// missing), and brings the jars by Maven into ~/.cache/cartwright-services, which
// clones share. SERVICES="kafka redis" starts only these. A cold first run takes
// about 20 s and 167 MB, a warm one 10 s; all together take some 500 MB of memory.
// The head of up.sh lists its settings.
//
// # Why
//
// Tests of real servers carry the build tag "integration", so that they are
// either built and run, or not there: a test that skips itself would be taken
// for one that passed. They find the servers by the file that CARTWRIGHT_SERVICES
// names, and fail without it. A test that kills a server others use too starts
// one of its own instead (Start).
//
// Kafka and Redis listen twice: plainly, and over TLS with a login, so that both
// ways in are tested against one server. Certificates are made for 127.0.0.1 and
// localhost by a CA of the folder's own, user and password are drawn for it.
// Kafka takes them by PLAIN and by SCRAM; its user "guest" has the same password
// and no rights at all. Topics are not made by naming them. On Redis' plain port
// everybody may do everything; a second Redis is a cluster of one node that has
// all slots. Neither keeps anything over a restart, which is a good test of
// healing.
//
// Elasticsearch knows one way at a time: with ES_SECURE=1 it wants TLS and the
// login, over HTTPS. The distribution is Elastic's own less most modules, and
// lacks all scripts; _reindex, _update_by_query and _delete_by_query; GET and
// HEAD of / (ask for the cluster's health instead); edge_ngram, asciifolding and
// language analysers; scaled_float, join and wildcard fields; bucket_sort and
// derivative; data streams and search templates. It refuses to run as root, so
// up.sh makes root nobody in a user namespace of its own. An index needs
// number_of_replicas 0 on one node.
//
// Java options favour a quick boot over a high peak: set SERVICES_JVM_OPTS= to
// measure.
package services

import (
	"bufio"
	"os"
	"strings"
	"testing"
)

// Variable names the file that up.sh wrote.
const Variable = "CARTWRIGHT_SERVICES"

// Env is where the servers are. Only what was started is set.
type Env struct {
	Kafka         []string // plain
	KafkaSecure   []string // TLS, and SASL PLAIN as User with Password
	Elasticsearch []string
	Redis         string
	RedisSecure   string   // TLS, and a login as User with Password
	RedisCluster  []string // a cluster of one node, with all slots
	CA            string   // the file of the certificate that signed the servers'
	User          string
	Password      string
	Dir           string // where up.sh keeps everything
}

// Read finds the servers, or fails the test.
func Read(tb testing.TB) Env {
	tb.Helper()
	path := os.Getenv(Variable)
	if path == "" {
		tb.Fatalf("%s is not set: run `make integration`, or `make services-up` and set it to the file that is named there", Variable)
	}
	e, err := Load(path)
	if err != nil {
		tb.Fatalf("where the servers are: %v", err)
	}
	return e
}

// Load reads the file that up.sh wrote.
func Load(path string) (Env, error) {
	f, err := os.Open(path) //nolint:gosec // the developer names it
	if err != nil {
		return Env{}, err
	}
	defer func() { _ = f.Close() }()
	said := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			said[name] = value
		}
	}
	return Env{
		Kafka:         list(said["KAFKA_BROKERS"]),
		KafkaSecure:   list(said["KAFKA_SECURE_BROKERS"]),
		Elasticsearch: list(said["ELASTICSEARCH_URL"]),
		Redis:         said["REDIS_ADDR"],
		RedisSecure:   said["REDIS_SECURE_ADDR"],
		RedisCluster:  list(said["REDIS_CLUSTER_ADDRS"]),
		CA:            said["CA_FILE"],
		User:          said["SERVICES_USER"],
		Password:      said["SERVICES_PASSWORD"],
		Dir:           said["SERVICES_DIR"],
	}, lines.Err()
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}
