package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caarlos0/env/v11"
	"github.com/google/go-cmp/cmp"
)

// settingNames are all environment variables that are read.
func settingNames(t *testing.T) []string {
	t.Helper()
	fields, err := env.GetFieldParams(&config{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range fields {
		if f.Key != "" {
			names = append(names, f.Key)
		}
	}
	slices.Sort(names)
	return names
}

func TestTheREADMEListsEverySetting(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "## Settings")
	if !found {
		t.Fatal("the README has no settings")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	told := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllStringSubmatch(section, -1) {
		stem := ""
		for _, name := range regexp.MustCompile("`([A-Z_]+)`").FindAllStringSubmatch(row[1], -1) {
			if strings.HasPrefix(name[1], "_") { // what a name goes on with
				told["CARTWRIGHT_"+stem+name[1]] = true
				continue
			}
			stem = name[1]
			told["CARTWRIGHT_"+stem] = true
		}
	}
	if diff := cmp.Diff(settingNames(t), slices.Sorted(maps.Keys(told))); diff != "" {
		t.Errorf("settings (-there are +the README has):\n%s", diff)
	}
}

func TestASettingThatMakesNoSenseIsRefused(t *testing.T) {
	good, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	if err := good.check(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	for name, spoil := range map[string]func(*config){
		"no data folder":                  func(c *config) { c.Data = "" },
		"a namespace in capitals":         func(c *config) { c.Namespace = "Shop" },
		"a namespace with a dot":          func(c *config) { c.Namespace = "a.b" },
		"no namespace":                    func(c *config) { c.Namespace = "" },
		"a password without a user":       func(c *config) { c.KafkaLogin.Password = "p" },
		"a password twice":                func(c *config) { c.RedisLogin = login{User: "u", Password: "p", PasswordFile: "f"} },
		"a certificate without key":       func(c *config) { c.EventStoreLogin.CertFile = "f" },
		"more in sync than copies":        func(c *config) { c.KafkaTopic.Replication, c.KafkaTopic.MinInSync = 2, 3 },
		"no shards":                       func(c *config) { c.ElasticsearchIndex.Shards = 0 },
		"an API key twice":                func(c *config) { c.ElasticsearchIndex.APIKey, c.ElasticsearchIndex.APIKeyFile = "k", "f" },
		"an API key beside a login":       func(c *config) { c.ElasticsearchIndex.APIKey, c.ElasticsearchLogin.User = "k", "u" },
		"a negative rate":                 func(c *config) { c.RateLimit = -1 },
		"profiles for everybody":          func(c *config) { c.Pprof = ":6060" },
		"an Elasticsearch without scheme": func(c *config) { c.Elasticsearch = []string{"es:9200"} },
	} {
		c := good
		spoil(&c)
		if err := c.check(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestAPasswordIsReadFromItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("hunter 2 \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := (login{User: "u", PasswordFile: path}).password(); got != "hunter 2 " || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := (login{User: "u", PasswordFile: path + "2"}).password(); err == nil {
		t.Error("a file that isn't there is no password")
	}
}

func TestCertificatesToTrustAreRead(t *testing.T) {
	if c, err := (login{}).tls(); c != nil || err != nil {
		t.Errorf("without TLS: %v, %v", c, err)
	}
	if c, err := (login{TLS: true}).tls(); c == nil || c.RootCAs != nil || err != nil {
		t.Errorf("with the system's certificates: %v, %v", c, err)
	}
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, l := range []login{{CAFile: empty}, {CAFile: empty + "2"}, {CertFile: empty, KeyFile: empty}} {
		if _, err := l.tls(); err == nil {
			t.Errorf("%+v was taken", l)
		}
	}
}
