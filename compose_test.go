package main

import (
	"context"
	"encoding/xml"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/caarlos0/env/v11"
	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// Nothing can be started from docker-compose.yml where the tests run, so it is
// read the way docker compose reads it and held to what the code expects.

// A deployment is what docker compose would bring up.
type deployment struct{ *types.Project }

// Both ways to bring it up are read once.
var (
	oneNode    = sync.OnceValues(func() (*types.Project, error) { return readCompose() })
	threeNodes = sync.OnceValues(func() (*types.Project, error) { return readCompose("cluster.env") })
)

func readCompose(envFiles ...string) (*types.Project, error) {
	with := []cli.ProjectOptionsFn{cli.WithWorkingDirectory(".")}
	if len(envFiles) > 0 {
		with = append(with, cli.WithEnvFiles(envFiles...), cli.WithDotEnv)
	}
	options, err := cli.NewProjectOptions([]string{"docker-compose.yml"}, append(with, cli.WithDefaultProfiles())...)
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}

func onOneNode(t *testing.T) deployment {
	t.Helper()
	return loadDeployment(t, oneNode)
}

func inCluster(t *testing.T) deployment {
	t.Helper()
	return loadDeployment(t, threeNodes)
}

func loadDeployment(t *testing.T, read func() (*types.Project, error)) deployment {
	t.Helper()
	project, err := read()
	if err != nil {
		t.Fatal(err)
	}
	return deployment{project}
}

// deployments are both, by what to call them.
func deployments(t *testing.T) map[string]deployment {
	t.Helper()
	return map[string]deployment{"one node": onOneNode(t), "cluster": inCluster(t)}
}

// containers are the services of which there is at least one.
func (d deployment) containers() map[string]types.ServiceConfig {
	running := map[string]types.ServiceConfig{}
	for name, s := range d.Services {
		if s.GetScale() > 0 {
			running[name] = s
		}
	}
	return running
}

// parts are the containers that run our binary.
func (d deployment) parts() map[string]types.ServiceConfig {
	ours := d.containers()
	maps.DeleteFunc(ours, func(_ string, s types.ServiceConfig) bool { return s.Build == nil })
	return ours
}

// of are the running containers of an image.
func (d deployment) of(image string) []string {
	var names []string
	for name, s := range d.containers() {
		if imageName, _, _ := strings.Cut(s.Image, ":"); imageName == image {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

const (
	eventStoreImage    = "eventstore/eventstore"
	kafkaImage         = "apache/kafka"
	elasticsearchImage = "docker.elastic.co/elasticsearch/elasticsearch"
	redisImage         = "redis"
)

// endsByItself are containers that do something and end.
var endsByItself = []string{"eventstore-certificates"}

func setting(s types.ServiceConfig, name string) string {
	if v := s.Environment[name]; v != nil {
		return *v
	}
	return ""
}

func integer(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTheContainersAreThoseOfTheDesign(t *testing.T) {
	t.Parallel()
	always := []string{"elasticsearch", "kafka", "process", "project", "read", "redis", "relay", "write"}
	for _, tt := range []struct {
		of     deployment
		beside []string
	}{
		{onOneNode(t), []string{"eventstore"}},
		{inCluster(t), []string{"eventstore-certificates", "eventstore1", "eventstore2", "eventstore3"}},
	} {
		got, want := slices.Sorted(maps.Keys(tt.of.containers())), slices.Sorted(slices.Values(slices.Concat(always, tt.beside)))
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// The second relay stands by for the first, and projectors share the partitions.
func TestWhatMayFailHasAnother(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for name, least := range map[string]int{"relay": 2, "project": 3, "process": 2} {
				if s := d.Services[name]; s.GetScale() < least {
					t.Errorf("%d of %s, want %d", s.GetScale(), name, least)
				}
			}
			if s := d.Services["project"]; s.GetScale() > partitions {
				t.Errorf("%d projectors share %d partitions", s.GetScale(), partitions)
			}
		})
	}
}

func TestEveryPartOfTheBinaryRunsInAContainer(t *testing.T) {
	t.Parallel()
	alone := []string{"serve", "node"} // everything in one process, and a backend of its own
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for _, p := range parts {
				s, ok := d.parts()[p.name]
				if slices.Contains(alone, p.name) {
					continue
				}
				if !ok || !slices.Equal(s.Command, []string{p.name}) {
					t.Errorf("%s: a container runs %v", p.name, s.Command)
				}
			}
			root, err := newCommand()
			if err != nil {
				t.Fatal(err)
			}
			for name, s := range d.parts() {
				for what, args := range map[string][]string{"command": s.Command, "health check": s.HealthCheck.Test[min(2, len(s.HealthCheck.Test)):]} {
					cmd, rest, err := root.Find(args)
					if err != nil || cmd == root {
						t.Errorf("%s: the binary has no %s %v: %v", name, what, args, err)
						continue
					}
					if err := cmd.ParseFlags(rest); err != nil || len(cmd.Flags().Args()) > 0 {
						t.Errorf("%s: %s %v: %v", name, what, args, err)
					}
				}
			}
		})
	}
}

// A setting with a wrong name is an engine that is embedded, in a folder that is
// gone with the container.
func TestEverySettingIsOneTheBinaryKnows(t *testing.T) {
	t.Parallel()
	known := settingNames(t)
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for name, s := range d.Services {
				for variable := range s.Environment {
					if strings.HasPrefix(variable, "CARTWRIGHT_") && !slices.Contains(known, variable) {
						t.Errorf("%s: the binary does not know %s", name, variable)
					}
				}
			}
		})
	}
}

// configOf reads a part's settings as the part does.
func configOf(t *testing.T, s types.ServiceConfig) config {
	t.Helper()
	environment := map[string]string{}
	for name := range s.Environment {
		environment[name] = setting(s, name)
	}
	c, err := env.ParseAsWithOptions[config](env.Options{Environment: environment})
	if err != nil {
		t.Fatalf("%s: %v", s.Name, err)
	}
	if err := c.check(); err != nil {
		t.Errorf("%s: %v", s.Name, err)
	}
	return c
}

func TestEveryPartIsToldWhereItsEnginesAre(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for _, p := range parts {
				s, ok := d.parts()[p.name]
				if !ok {
					continue
				}
				c, need := configOf(t, s), p.needs()
				for what, missing := range map[string]bool{
					"the event log":  need.log && c.EventStore == "",
					"the bus":        need.bus && len(c.Kafka) == 0,
					"the index":      need.views && len(c.Elasticsearch) == 0,
					"the cache":      need.views && len(c.Redis) == 0,
					"the master key": (need.views || need.shop) && c.MasterKey == "",
				} {
					if missing {
						t.Errorf("%s is not told where %s is", p.name, what)
					}
				}
				if host, _, err := net.SplitHostPort(c.Listen); p.listens() && (err != nil || loopback(c.Listen) || net.ParseIP(host) == nil) {
					t.Errorf("%s listens on %s, which nobody else can reach", p.name, c.Listen)
				}
				if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= c.Stop {
					t.Errorf("%s may take %v to stop, and is killed after %v", p.name, c.Stop, s.StopGracePeriod)
				}
			}
		})
	}
}

// parts of one deployment have to agree on what they share.
func TestAllPartsShareOneWorld(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			said := map[string]string{}
			for name, s := range d.parts() {
				for variable := range s.Environment {
					if variable == "GOMEMLIMIT" || variable == "CARTWRIGHT_LISTEN" || variable == "CARTWRIGHT_ALLOW_BACKDATING" {
						continue
					}
					if first, ok := said[variable]; ok && first != setting(s, variable) {
						t.Errorf("%s: %s is %q, elsewhere %q", name, variable, setting(s, variable), first)
					}
					said[variable] = setting(s, variable)
				}
			}
		})
	}
}

// addressesOf are all host:port that a part is told.
func addressesOf(t *testing.T, c config) []string {
	t.Helper()
	all := slices.Concat(c.Kafka, c.Redis)
	for _, node := range c.Elasticsearch {
		u, err := url.Parse(node)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, u.Host)
	}
	uri, err := esdb.ParseConnectionString(c.EventStore)
	if err != nil {
		t.Fatal(err)
	}
	if uri.Address != "" {
		all = append(all, uri.Address)
	}
	for _, seed := range uri.GossipSeeds {
		all = append(all, net.JoinHostPort(seed.Host, strconv.Itoa(int(seed.Port))))
	}
	return all
}

// reaches says whether one container finds another at an address.
func (d deployment) reaches(from types.ServiceConfig, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	to, ok := d.containers()[host]
	switch {
	case !ok:
		return fmt.Errorf("there is no container %s", host)
	case !slices.Contains(to.Expose, port):
		return fmt.Errorf("%s listens on %v", host, to.Expose)
	}
	for network := range from.Networks {
		if _, ok := to.Networks[network]; ok {
			return nil
		}
	}
	return fmt.Errorf("they share no network: %v and %v", from.NetworksByPriority(), to.NetworksByPriority())
}

func TestEveryAddressIsThatOfAContainer(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for name, s := range d.parts() {
				for _, address := range addressesOf(t, configOf(t, s)) {
					if err := d.reaches(s, address); err != nil {
						t.Errorf("%s looks for %s: %v", name, address, err)
					}
				}
			}
			for _, name := range d.of(eventStoreImage) {
				node := d.Services[name]
				for seed := range strings.SplitSeq(setting(node, "EVENTSTORE_GOSSIP_SEED"), ",") {
					if err := d.reaches(node, seed); seed != "" && err != nil {
						t.Errorf("%s looks for %s: %v", name, seed, err)
					}
				}
			}
			kafka := d.Services["kafka"]
			_, address, _ := strings.Cut(setting(kafka, "KAFKA_ADVERTISED_LISTENERS"), "://")
			if err := d.reaches(kafka, address); err != nil {
				t.Errorf("kafka says it is at %s: %v", address, err)
			}
		})
	}
}

// Only a cluster speaks TLS, and so it alone takes a password.
func TestTheClusterIsFoundByDiscoveryOverTLS(t *testing.T) {
	t.Parallel()
	d := inCluster(t)
	nodes := d.of(eventStoreImage)
	if !slices.Equal(nodes, []string{"eventstore1", "eventstore2", "eventstore3"}) {
		t.Fatalf("got %v", nodes)
	}
	for name, s := range d.parts() {
		c := configOf(t, s)
		uri, err := esdb.ParseConnectionString(c.EventStore)
		if err != nil {
			t.Fatal(err)
		}
		if uri.DisableTLS || uri.SkipCertificateVerification || len(uri.GossipSeeds) != len(nodes) || uri.Username != "" {
			t.Errorf("%s: %s asks %d nodes of %d, TLS %v, verified %v", name, c.EventStore, len(uri.GossipSeeds), len(nodes), !uri.DisableTLS, !uri.SkipCertificateVerification)
		}
		if in := c.EventStoreLogin; in.User != "admin" || in.PasswordFile == "" || in.CAFile != "/certificates/ca/ca.crt" {
			t.Errorf("%s: logs in with %+v", name, in)
		}
	}
	for _, name := range nodes {
		node := d.Services[name]
		if size := integer(t, setting(node, "EVENTSTORE_CLUSTER_SIZE")); size != len(nodes) {
			t.Errorf("%s believes in %d nodes", name, size)
		}
		if setting(node, "EVENTSTORE_INSECURE") != "" {
			t.Errorf("%s is insecure", name)
		}
		others := slices.DeleteFunc(slices.Clone(nodes), func(other string) bool { return other == name })
		if want := strings.Join(others, ":2113,") + ":2113"; setting(node, "EVENTSTORE_GOSSIP_SEED") != want {
			t.Errorf("%s asks %s, not %s", name, setting(node, "EVENTSTORE_GOSSIP_SEED"), want)
		}
		for _, variable := range []string{"EVENTSTORE_NODE_HOST_ADVERTISE_AS", "EVENTSTORE_REPLICATION_HOST_ADVERTISE_AS"} {
			if setting(node, variable) != name {
				t.Errorf("%s: %s is %s", name, variable, setting(node, variable))
			}
		}
		for variable, file := range map[string]string{
			"EVENTSTORE_CERTIFICATE_FILE": "node.crt", "EVENTSTORE_CERTIFICATE_PRIVATE_KEY_FILE": "node.key",
		} {
			if want := "/certificates/" + name + "/" + file; setting(node, variable) != want {
				t.Errorf("%s: %s is %s, not %s", name, variable, setting(node, variable), want)
			}
		}
	}
}

// Who names a file below a mount has the mount.
func TestFilesThatAreNamedAreMounted(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for name, s := range d.containers() {
				var there []string
				for _, secret := range s.Secrets {
					there = append(there, "/run/secrets/"+secret.Source)
					if _, ok := d.Secrets[secret.Source]; !ok || secret.Target != "" && secret.Target != "/run/secrets/"+secret.Source {
						t.Errorf("%s: there is no secret %+v", name, secret)
					}
				}
				for _, mount := range s.Volumes {
					there = append(there, mount.Target+"/")
					if mount.Type != types.VolumeTypeVolume && mount.Target != path.Dir(setting(s, "CARTWRIGHT_ERASURES")) {
						t.Errorf("%s: %s is mounted from this machine", name, mount.Target)
					}
				}
				for variable := range s.Environment {
					v := setting(s, variable)
					if !strings.HasPrefix(v, "/run/") && !strings.HasPrefix(v, "/certificates") {
						continue
					}
					if !slices.ContainsFunc(there, func(at string) bool { return strings.HasPrefix(v+"/", at) }) {
						t.Errorf("%s: %s is %s, and it has only %v", name, variable, v, there)
					}
				}
			}
			for name, secret := range d.Secrets {
				if secret.File == "" || !strings.HasSuffix(filepath.Dir(secret.File), "/data/secrets") {
					t.Errorf("the secret %s is no file that git and the image leave out: %+v", name, secret)
				}
			}
		})
	}
}

// provenReleases reads the versions that the integration tests run.
func provenReleases(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("infra/services/pom.xml")
	if err != nil {
		t.Fatal(err)
	}
	var pom struct {
		Dependencies []struct {
			Artifact string `xml:"artifactId"`
			Version  string `xml:"version"`
		} `xml:"dependencies>dependency"`
	}
	if err := xml.Unmarshal(text, &pom); err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, d := range pom.Dependencies {
		versions[d.Artifact] = d.Version
	}
	return versions
}

// release reads a release's first three numbers.
func release(t *testing.T, text string) [3]int {
	t.Helper()
	found := regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("%q is no version", text)
	}
	return [3]int{integer(t, found[1]), integer(t, found[2]), integer(t, found[3])}
}

func TestEnginesHaveTheVersionsThatIntegrationProves(t *testing.T) {
	t.Parallel()
	have := provenReleases(t)
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			images := map[string][3]int{}
			for name, s := range d.containers() {
				image, tag, _ := strings.Cut(s.Image, ":")
				if s.Build == nil {
					images[image] = release(t, tag)
				} else if tag != "" {
					t.Errorf("%s: what is built here has no tag: %s", name, s.Image)
				}
			}
			for image, artifact := range map[string]string{kafkaImage: "kafka_2.13", elasticsearchImage: "elasticsearch"} {
				if got, want := images[image], release(t, have[artifact]); got[0] != want[0] || got[1] != want[1] || got[2] < want[2] {
					t.Errorf("%s is %v, and tests run %v", image, got, want)
				}
			}
			if got := images[redisImage]; got[0] != 7 {
				t.Errorf("redis is %v, and tests run 7", got)
			}
			if got := images[eventStoreImage]; slices.Compare(got[:], []int{24, 10, 0}) < 0 || got[0] > 24 {
				t.Errorf("EventStoreDB is %v; it is 24.10 or a later patch, for 25 has other settings", got)
			}
		})
	}
}

func TestEveryContainerIsBoundedWatchedAndStartedAgain(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for name, s := range d.containers() {
				if s.Deploy == nil || s.Deploy.Resources.Limits == nil || s.Deploy.Resources.Limits.MemoryBytes == 0 || s.Deploy.Resources.Limits.NanoCPUs == 0 {
					t.Errorf("%s has no limits", name)
				}
				if s.Logging == nil || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
					t.Errorf("%s may fill the disk with its log", name)
				}
				if s.Init == nil || !*s.Init {
					t.Errorf("%s has no init", name)
				}
				if !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged {
					t.Errorf("%s may do more than it needs", name)
				}
				if slices.Contains(endsByItself, name) {
					if s.Restart != types.RestartPolicyNo {
						t.Errorf("%s is done once, and is started again: %s", name, s.Restart)
					}
					continue
				}
				if s.Restart != types.RestartPolicyUnlessStopped {
					t.Errorf("%s is not started again: %q", name, s.Restart)
				}
				if len(s.CapAdd) > 0 {
					t.Errorf("%s has %v", name, s.CapAdd)
				}
				checkWatched(t, s)
			}
		})
	}
}

func checkWatched(t *testing.T, s types.ServiceConfig) {
	t.Helper()
	h := s.HealthCheck
	if h == nil || h.Disable || len(h.Test) < 2 || h.Interval == nil || h.Timeout == nil || h.Retries == nil || h.StartPeriod == nil {
		t.Errorf("%s is not watched: %+v", s.Name, h)
		return
	}
	if *h.Timeout > *h.Interval {
		t.Errorf("%s: a check takes up to %v, and there is one every %v", s.Name, h.Timeout, h.Interval)
	}
	if i := slices.Index(h.Test, "--timeout"); i >= 0 {
		if own, err := time.ParseDuration(h.Test[i+1]); err != nil || own >= time.Duration(*h.Timeout) {
			t.Errorf("%s: the check waits %v and has %v: %v", s.Name, own, h.Timeout, err)
		}
	}
}

// The API's check asks the address that the part listens on.
func TestHealthChecksAskTheRightDoor(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for _, p := range parts {
				s, ok := d.parts()[p.name]
				if !ok {
					continue
				}
				check := s.HealthCheck.Test
				if len(check) < 3 || !slices.Equal(check[:3], []string{"CMD", "/cartwright", "health"}) {
					t.Errorf("%s: the image has nothing but the binary: %v", p.name, check)
				}
				i := slices.Index(check, "--url")
				if !p.listens() {
					if i >= 0 {
						t.Errorf("%s has no API: %v", p.name, check)
					}
					continue
				}
				_, port, err := net.SplitHostPort(setting(s, "CARTWRIGHT_LISTEN"))
				if want := "http://127.0.0.1:" + port + "/readyz"; err != nil || i < 0 || check[i+1] != want {
					t.Errorf("%s: it asks %v, not %s: %v", p.name, check, want, err)
				}
			}
		})
	}
}

// Nothing starts before what it needs is well; what it needs are the containers
// at the addresses that it was told.
func TestContainersWaitForWhatTheyNeed(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for name, s := range d.containers() {
				for other, dependency := range s.DependsOn {
					want := types.ServiceConditionHealthy
					if slices.Contains(endsByItself, other) {
						want = types.ServiceConditionCompletedSuccessfully
					}
					if dependency.Condition != want {
						t.Errorf("%s waits for %s until %s, want %s", name, other, dependency.Condition, want)
					}
					if _, ok := d.containers()[other]; !ok && dependency.Required {
						t.Errorf("%s waits for %s, which never comes", name, other)
					}
				}
			}
			for name, s := range d.parts() {
				for _, address := range addressesOf(t, configOf(t, s)) {
					host, _, err := net.SplitHostPort(address)
					if _, ok := s.DependsOn[host]; err != nil || !ok {
						t.Errorf("%s does not wait for %s: %v", name, address, err)
					}
				}
			}
			for _, name := range d.of(eventStoreImage) {
				_, waits := d.Services[name].DependsOn["eventstore-certificates"]
				if secure := setting(d.Services[name], "EVENTSTORE_CERTIFICATE_FILE") != ""; secure != waits {
					t.Errorf("%s: TLS %v, waits for certificates %v", name, secure, waits)
				}
			}
		})
	}
}

func TestNoMoreCopiesAreAskedForThanThereAreNodes(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			brokers, nodes := len(d.of(kafkaImage)), len(d.of(elasticsearchImage))
			for name, s := range d.parts() {
				c := configOf(t, s)
				if len(c.Kafka) > 0 && c.KafkaTopic.Replication > brokers {
					t.Errorf("%s wants %d replicas of %d brokers", name, c.KafkaTopic.Replication, brokers)
				}
				if len(c.Elasticsearch) > 0 && c.ElasticsearchIndex.Replicas >= nodes {
					t.Errorf("%s wants %d replicas beside the first copy on %d nodes", name, c.ElasticsearchIndex.Replicas, nodes)
				}
			}
			kafka := d.Services["kafka"]
			for variable := range kafka.Environment {
				if strings.HasSuffix(variable, "_REPLICATION_FACTOR") || strings.HasSuffix(variable, "_ISR") || strings.HasSuffix(variable, "_INSYNC_REPLICAS") {
					if n := integer(t, setting(kafka, variable)); n < 1 || n > brokers {
						t.Errorf("%s is %d on %d brokers", variable, n, brokers)
					}
				}
			}
		})
	}
}

// A topic that the broker made by itself would have the wrong partitions, for
// ever; offsets that are gone before the events would have all of them read again.
func TestTheBrokerMakesNoTopicsAndRemembersOffsetsLongest(t *testing.T) {
	t.Parallel()
	kafka := onOneNode(t).Services["kafka"]
	if setting(kafka, "KAFKA_AUTO_CREATE_TOPICS_ENABLE") != "false" {
		t.Error("the broker makes topics by itself")
	}
	events := time.Duration(integer(t, setting(kafka, "KAFKA_LOG_RETENTION_HOURS"))) * time.Hour
	offsets := time.Duration(integer(t, setting(kafka, "KAFKA_OFFSETS_RETENTION_MINUTES"))) * time.Minute
	if week := 7 * 24 * time.Hour; events < week || offsets <= events || setting(kafka, "KAFKA_LOG_RETENTION_BYTES") != "-1" {
		t.Errorf("events are kept %v, offsets %v", events, offsets)
	}
}

func TestOnlyTheAPIsArePublishedAndOnlyToThisMachine(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			taken := map[string]string{}
			for name, s := range d.Services {
				i := slices.IndexFunc(parts, func(p part) bool { return p.name == name && p.listens() })
				if i < 0 && (len(s.Ports) > 0 || s.NetworkMode == "host") {
					t.Errorf("%s is published: %v", name, s.Ports)
				}
				if i >= 0 && (len(s.Ports) != 1 || s.GetScale() != 1) {
					t.Errorf("%s: %d containers at %v", name, s.GetScale(), s.Ports)
				}
				for _, port := range s.Ports {
					if !loopback(net.JoinHostPort(port.HostIP, port.Published)) || taken[port.Published] != "" {
						t.Errorf("%s is published at %q %s, where there is %q", name, port.HostIP, port.Published, taken[port.Published])
					}
					taken[port.Published] = name
					if _, listens, err := net.SplitHostPort(setting(s, "CARTWRIGHT_LISTEN")); err != nil || listens != strconv.Itoa(int(port.Target)) {
						t.Errorf("%s listens on %s, and %d is published: %v", name, listens, port.Target, err)
					}
				}
				if _, front := s.Networks["front"]; front != (i >= 0) {
					t.Errorf("%s is on %v", name, s.NetworksByPriority())
				}
			}
			if !d.Networks["backend"].Internal {
				t.Error("the engines' network leads outside")
			}
		})
	}
}

func TestOurContainersCanChangeNothing(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for name, s := range d.parts() {
				user, _, _ := strings.Cut(s.User, ":")
				if integer(t, user) == 0 || !s.ReadOnly {
					t.Errorf("%s runs as %q, read only %v", name, s.User, s.ReadOnly)
				}
				data := setting(s, "CARTWRIGHT_DATA") + ":uid=" + user + ",gid=" + user + ",mode=0700"
				if !slices.ContainsFunc(s.Tmpfs, func(at string) bool { return strings.HasPrefix(at, data) }) {
					t.Errorf("%s can't write in its data folder: %v", name, s.Tmpfs)
				}
				for _, mount := range s.Volumes {
					if !mount.ReadOnly && mount.Target != path.Dir(setting(s, "CARTWRIGHT_ERASURES")) {
						t.Errorf("%s may write to %s", name, mount.Target)
					}
				}
				limit := s.Deploy.Resources.Limits
				if heap := bytesIn(t, setting(s, "GOMEMLIMIT")); heap > int64(limit.MemoryBytes)*9/10 {
					t.Errorf("%s: its heap may have %d of %d bytes", name, heap, limit.MemoryBytes)
				}
				if limit.Pids == 0 {
					t.Errorf("%s may have any number of threads", name)
				}
			}
		})
	}
}

// bytesIn reads 512m, 1g or 450MiB.
func bytesIn(t *testing.T, text string) int64 {
	t.Helper()
	found := regexp.MustCompile(`^(\d+)(m|g|mb|MiB)$`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("%q is no size", text)
	}
	n := int64(integer(t, found[1])) << 20
	if found[2] == "g" {
		n <<= 10
	}
	return n
}

// What a server keeps outside its heap (files' pages, buffers, code) is inside
// its container's limit too.
func TestEnginesFitIntoTheirContainers(t *testing.T) {
	t.Parallel()
	d := onOneNode(t)
	kafka, elasticsearch, redis := d.Services["kafka"], d.Services["elasticsearch"], d.Services["redis"]
	for _, tt := range []struct {
		of    types.ServiceConfig
		said  string
		share int64 // of the limit, in percent
	}{
		{kafka, setting(kafka, "KAFKA_HEAP_OPTS"), 50},
		{elasticsearch, setting(elasticsearch, "ES_JAVA_OPTS"), 50},
		{redis, redis.Command[len(redis.Command)-1], 75},
	} {
		found := regexp.MustCompile(`(?:-Xmx|--maxmemory )(\d+(?:mb|m|g))`).FindStringSubmatch(tt.said)
		if found == nil {
			t.Fatalf("%s: no size in %q", tt.of.Name, tt.said)
		}
		if size, limit := bytesIn(t, found[1]), int64(tt.of.Deploy.Resources.Limits.MemoryBytes); size*100 > limit*tt.share {
			t.Errorf("%s: %s of %d bytes, want at most %d%%", tt.of.Name, found[1], limit, tt.share)
		}
	}
}

// Every engine keeps what it must in a volume with a name; Redis keeps nothing.
func TestWhatMustLastHasAVolume(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			where := map[string]string{
				eventStoreImage: "/var/lib/eventstore", kafkaImage: "/var/lib/kafka/data", elasticsearchImage: "/usr/share/elasticsearch/data",
			}
			owner := map[string]string{}
			for image, path := range where {
				for _, name := range d.of(image) {
					i := slices.IndexFunc(d.Services[name].Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == path && v.Source != "" && !v.ReadOnly })
					if i < 0 {
						t.Errorf("%s loses its data", name)
						continue
					}
					source := d.Services[name].Volumes[i].Source
					if owner[source] != "" {
						t.Errorf("%s and %s share the volume %s", name, owner[source], source)
					}
					owner[source] = name
				}
			}
			redis := d.Services["redis"]
			if command := redis.Command[len(redis.Command)-1]; !redis.ReadOnly || len(redis.Volumes) > 0 || !strings.Contains(command, "--save '' --appendonly no") {
				t.Errorf("redis keeps what it need not: %s", command)
			}
		})
	}
}

var secretName = regexp.MustCompile(`(?i)(password|passwd|secret|token|api_?key)$`)

// A secret in an environment, a command line or this file is seen by whoever
// may look at the container or the repository.
func TestNoSecretStandsInTheFiles(t *testing.T) {
	t.Parallel()
	for world, d := range deployments(t) {
		t.Run(world, func(t *testing.T) {
			for name, s := range d.Services {
				for variable := range s.Environment {
					v := setting(s, variable)
					if secretName.MatchString(variable) && v != "" {
						t.Errorf("%s: %s is said openly", name, variable)
					}
					if u, err := url.Parse(v); err == nil && u.User != nil {
						t.Errorf("%s: %s has a login in it", name, variable)
					}
				}
			}
		})
	}
	open := regexp.MustCompile(`(?i)(?:password|requirepass|secret|token|api_?key)\w*["']?\s*[:= ]\s*["']?([^\s"']+)`)
	hidden := regexp.MustCompile(`^(\$\$\(cat|\$\$EVENTSTORE_|/run/secrets/|\$\{EVENTSTORE_PASSWORD_FILE:-\}|%s|[{}[])`)
	for _, name := range []string{"docker-compose.yml", "cluster.env", "Dockerfile"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			line, _, _ = strings.Cut(line, " #")
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			for _, found := range open.FindAllStringSubmatch(line, -1) {
				if !hidden.MatchString(found[1]) && !strings.HasPrefix(found[1], "EVENTSTORE_DEFAULT_") {
					t.Errorf("%s:%d: is %q a secret?", name, i+1, found[1])
				}
			}
		}
	}
}

// A quote that is missing in a command would be found when it is started.
func TestTheShellUnderstandsEveryCommand(t *testing.T) {
	t.Parallel()
	d := inCluster(t)
	scripts := 0
	for name, s := range d.Services {
		var of []string
		if len(s.Entrypoint) > 0 && s.Entrypoint[len(s.Entrypoint)-1] == "-ec" {
			of = append(of, s.Command[len(s.Command)-1])
		}
		if s.HealthCheck != nil && s.HealthCheck.Test[0] == "CMD-SHELL" {
			of = append(of, s.HealthCheck.Test[1])
		}
		for _, script := range of {
			scripts++
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if out, err := exec.CommandContext(ctx, "/bin/sh", "-n", "-c", script).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", name, err, out, script)
			}
			cancel()
		}
	}
	if scripts < 8 {
		t.Errorf("only %d commands were found", scripts)
	}
}

// dockerfileLines reads the instructions, each on one line.
func dockerfileLines(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var instructions []string
	for line := range strings.SplitSeq(strings.ReplaceAll(string(text), "\\\n", " "), "\n") {
		if line = strings.Join(strings.Fields(line), " "); line != "" && !strings.HasPrefix(line, "#") {
			instructions = append(instructions, line)
		}
	}
	return instructions
}

func TestTheImageIsBuiltWithTheModulesGoAndHasNothingButTheBinary(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	wants := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(text)
	lines := dockerfileLines(t)
	from := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, "FROM ") })
	if len(from) != 2 || wants == nil || !regexp.MustCompile(`^FROM (--platform=\S+ )?golang:`+regexp.QuoteMeta(string(wants[1]))+`[-.]\S* AS build$`).MatchString(from[0]) {
		t.Errorf("the module wants Go %s, the image is built by %v", wants, from)
	}
	last := lines[slices.Index(lines, from[len(from)-1]):]
	if !strings.HasPrefix(last[0], "FROM gcr.io/distroless/static-") || !strings.HasSuffix(last[0], ":nonroot") {
		t.Errorf("the image has more than it needs: %s", last[0])
	}
	if slices.ContainsFunc(last, func(l string) bool { return strings.HasPrefix(l, "RUN ") }) {
		t.Error("there is nothing in the image that could be run")
	}
	user := onOneNode(t).Services["write"].User
	for _, want := range []string{
		`ENTRYPOINT ["/cartwright"]`, "USER " + user, "COPY --from=build --chown=" + user + " /out/data /data", "ENV CARTWRIGHT_DATA=/data",
	} {
		if !slices.Contains(last, want) {
			t.Errorf("the image lacks %s", want)
		}
	}
	build := strings.Join(lines[:slices.Index(lines, last[0])], "\n")
	for _, want := range []string{"CGO_ENABLED=0", "-trimpath", "--mount=type=cache,target=/go/pkg/mod", "-ldflags='-s -w'"} {
		if !strings.Contains(build, want) {
			t.Errorf("the build lacks %s", want)
		}
	}
}

// The secrets and the data lie beside the source, and must not get into an image.
func TestTheImageIsMadeFromTheSourceAlone(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(".dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	var lets []string
	all := false
	for line := range strings.SplitSeq(string(text), "\n") {
		name, lets1 := strings.CutPrefix(line, "!")
		switch {
		case lets1 && !all:
			t.Errorf("%s comes before everything is left out", line)
		case lets1:
			lets = append(lets, name)
		case line == "*":
			all = true
		}
	}
	want := []string{"*.go", "go.mod", "go.sum"}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && e.Name() != "data" && e.Name() != "testdata" {
			want = append(want, e.Name())
		}
	}
	slices.Sort(lets)
	slices.Sort(want)
	if !slices.Equal(lets, want) {
		t.Errorf("got %v, want %v", lets, want)
	}
}
