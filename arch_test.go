package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const modulePath = "cartwright"

// A door says what a package may import beside the standard library. Test files
// are exempt: they may bring any fake and any suite.
type door struct {
	ours   []string // rooms or packages, with all that is in them
	others []string // other people's modules, or parts of one
}

// Modules that more than one door names.
const (
	modUUID   = "github.com/google/uuid"
	modGin    = "github.com/gin-gonic/gin"
	modCmp    = "github.com/google/go-cmp"
	modRapid  = "pgregory.net/rapid"
	modGoleak = "go.uber.org/goleak"
	modGRPC   = "google.golang.org/grpc"
	modOtter  = "github.com/maypok86/otter"
	modPebble = "github.com/cockroachdb/pebble"
	modSonic  = "github.com/bytedance/sonic"
	modSync   = "golang.org/x/sync"
	modESDB   = "github.com/EventStore/EventStore-Client-Go"
)

// doors has an entry for every room, and one for every package of infra: each
// of these knows the product it is named after and fills the interfaces of one
// room. A new package of infra needs an entry of its own. The root, which wires
// everybody to everybody, has none.
var doors = map[string]door{
	"domain":            {ours: []string{"domain"}},
	"domain/domaintest": {ours: []string{"domain"}, others: []string{modCmp, modRapid}},
	"commands":          {ours: []string{"domain"}, others: []string{modSync, modOtter, modUUID}},
	"projections":       {ours: []string{"domain"}},
	"writeapi":          {ours: []string{"domain", "commands", "infra/problem", "infra/httpedge", "infra/token"}, others: []string{modGin}},
	"readapi":           {ours: []string{"domain", "projections", "infra/problem", "infra/httpedge", "infra/token"}, others: []string{modGin}},

	// Event stores.
	"infra/memstore":  {ours: []string{"domain", "commands"}},
	"infra/esdbnode":  {ours: []string{"domain"}, others: []string{modESDB, modGRPC, "google.golang.org/protobuf", modPebble, modUUID, modSync}},
	"infra/esdbstore": {ours: []string{"domain", "commands"}, others: []string{modESDB, modGRPC, "google.golang.org/protobuf", modUUID, modSync}},
	"infra/keyring":   {ours: []string{"domain", "commands"}, others: []string{modOtter, modUUID}},

	// The way to the views.
	"infra/pace":      {},
	"infra/relay":     {ours: []string{"domain", "infra/pace"}, others: []string{modUUID, modSync}},
	"infra/kafkanode": {others: []string{"github.com/twmb/franz-go"}},
	"infra/kafkabus": {
		ours:   []string{"domain", "projections", "infra/pace"},
		others: []string{"github.com/IBM/sarama", "github.com/ThreeDotsLabs/watermill", "github.com/ThreeDotsLabs/watermill-kafka", "github.com/twmb/franz-go/pkg/sasl", modUUID, modSync},
	},
	"infra/process": {ours: []string{"domain", "infra/kafkabus"}, others: []string{"github.com/ThreeDotsLabs/watermill", modUUID}},

	// Views.
	"infra/pebblekv":     {ours: []string{"domain", "projections"}, others: []string{modPebble, modSonic, modSync}},
	"infra/elasticviews": {ours: []string{"domain", "projections"}, others: []string{"github.com/elastic/go-elasticsearch"}},
	"infra/redisviews":   {ours: []string{"domain", "projections"}, others: []string{"github.com/redis/go-redis", "github.com/sony/gobreaker"}},
	"infra/sqliteviews":  {ours: []string{"domain", "projections"}, others: []string{"modernc.org/sqlite", modSonic, modSync}},

	// Payment channels.
	"infra/outward":    {ours: []string{"domain"}},
	"infra/sandboxpay": {ours: []string{"domain", "commands"}, others: []string{"github.com/gofrs/flock", modSync}},
	"infra/wechatpay":  {ours: []string{"domain", "commands", "infra/outward"}, others: []string{"github.com/wechatpay-apiv3/wechatpay-go"}},
	"infra/alipay":     {ours: []string{"domain", "commands", "infra/outward"}, others: []string{"github.com/smartwalle/alipay"}},
	"infra/stripepay":  {ours: []string{"domain", "commands", "infra/outward"}, others: []string{"github.com/stripe/stripe-go"}},

	// The edge of both APIs.
	"infra/metrics":  {ours: []string{"domain", "projections"}, others: []string{"github.com/prometheus/client_golang"}},
	"infra/problem":  {ours: []string{"domain"}, others: []string{modGin}},
	"infra/httpedge": {ours: []string{"domain", "infra/problem"}, others: []string{modGin, "golang.org/x/time"}},
	"infra/token":    {ours: []string{"domain"}},
	"infra/openapi":  {ours: []string{"domain"}},

	// What tests are made of: they import what test files do.
	"infra/services":  {},
	"infra/tlstest":   {},
	"infra/faults":    {ours: []string{"domain", "commands", "projections"}},
	"infra/storetest": {ours: []string{"domain", "commands"}, others: []string{modCmp, modRapid, modGoleak, modUUID}},
	"infra/bustest":   {ours: []string{"domain", "projections"}, others: []string{modCmp, modRapid, modGoleak, modUUID}},
	"infra/cputime":   {},
	"infra/viewtest":  {ours: []string{"domain", "projections", "infra/cputime"}, others: []string{modCmp, modRapid, modGoleak, modSonic, modUUID}},
}

// rooms are the only folders at the top.
var rooms = []string{"domain", "commands", "projections", "readapi", "writeapi", "infra"}

// A listed package is what `go list` says of one of our packages.
type listed struct {
	ImportPath string
	Dir        string
	Imports    []string // of files that are not tests
	Deps       []string // the same, and theirs
}

// within is the package's path inside the module; "" is the root.
func (p listed) within() string {
	return strings.Trim(strings.TrimPrefix(p.ImportPath, modulePath), "/")
}

func listPackages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Dir,Imports,Deps", "./...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		t.Fatal("go list found no packages")
	}
	return all
}

func TestEveryPackageKeepsToItsDoor(t *testing.T) {
	for _, p := range listPackages(t) {
		from := p.within()
		if from == "" {
			continue
		}
		d, ok := doorOf(from)
		if !ok {
			t.Errorf("%s has no door: say in arch_test.go what it may import", from)
			continue
		}
		for _, imp := range p.Imports {
			if !d.open(from, imp) {
				t.Errorf("%s must not import %s", from, imp)
			}
		}
	}
}

// What a room may not import it may not reach through others either.
func TestNoRoomReachesAnotherThroughAThird(t *testing.T) {
	closed := map[string][]string{
		"domain":      {"commands", "projections", "readapi", "writeapi", "infra"},
		"commands":    {"projections", "readapi", "writeapi", "infra"},
		"projections": {"commands", "readapi", "writeapi", "infra"},
		"writeapi":    {"projections", "readapi"},
		"readapi":     {"commands", "writeapi"},
		"infra":       {"readapi", "writeapi"},
	}
	for _, p := range listPackages(t) {
		room, _, _ := strings.Cut(p.within(), "/")
		for _, dep := range p.Deps {
			to, ours := strings.CutPrefix(dep, modulePath+"/")
			if other, _, _ := strings.Cut(to, "/"); ours && slices.Contains(closed[room], other) {
				t.Errorf("%s depends on %s", p.within(), to)
			}
		}
	}
}

// doorOf finds the door of a package, or of the nearest folder above it that has
// one. The folder infra is none.
func doorOf(from string) (door, bool) {
	for at := from; at != "."; at = path.Dir(at) {
		if d, ok := doors[at]; ok {
			return d, true
		}
	}
	return door{}, false
}

func (d door) open(from, imp string) bool {
	to, ours := strings.CutPrefix(imp, modulePath+"/")
	switch host, _, _ := strings.Cut(imp, "/"); {
	case ours:
		// A package's own folders are its own affair.
		return slices.ContainsFunc(append(d.ours, from), func(may string) bool { return inside(to, may) })
	case strings.Contains(host, "."):
		return slices.ContainsFunc(d.others, func(may string) bool { return inside(imp, may) })
	}
	return true // the standard library
}

func inside(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

func TestTheTopLevelHasRoomsOnly(t *testing.T) {
	// data is where a process puts its files, testdata where a failed law leaves
	// its seed; git ignores both.
	allowed := slices.Concat(rooms, []string{".git", ".ci", "data", "testdata"})
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(allowed, e.Name()) {
			t.Errorf("the folder %s is no room; the rooms are %s", e.Name(), strings.Join(rooms, ", "))
		}
	}
}

// A door that lets everybody through would go unnoticed otherwise.
func TestDoorsCloseAndOpen(t *testing.T) {
	for _, tt := range []struct {
		from, imp string
		want      bool
	}{
		{"domain/order", "time", true},
		{"domain/order", "encoding/json", true},
		{"domain/order", "cartwright/domain/money", true},
		{"domain/order", "cartwright/domainish", false},
		{"domain/order", "cartwright/commands", false},
		{"domain/order", "github.com/google/uuid", false},
		{"commands", "github.com/google/uuid", true},
		{"commands", "github.com/maypok86/otter/v2", true},
		{"commands", "golang.org/x/sync/errgroup", true},
		{"commands", "golang.org/x/time/rate", false},
		{"commands", "cartwright/infra/memstore", false},
		{"writeapi", "cartwright/projections", false},
		{"readapi", "cartwright/commands", false},
		{"readapi", "cartwright/projections", true},
		{"infra/kafkabus", "github.com/IBM/sarama", true},
		{"infra/esdbstore", "github.com/IBM/sarama", false},
		{"infra/esdbstore", "cartwright/infra/esdbnode", false},
		{"infra/esdbnode", "cartwright/infra/esdbnode/log", true},
	} {
		d, ok := doorOf(tt.from)
		if got := ok && d.open(tt.from, tt.imp); got != tt.want {
			t.Errorf("%s imports %s: got %v, want %v", tt.from, tt.imp, got, tt.want)
		}
	}
	if _, ok := doorOf("infra/new"); ok {
		t.Error("a new package of infra needs a door of its own")
	}
}
