package openapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"cartwright/domain/event"
	"cartwright/infra/httpedge"
	"cartwright/infra/openapi"
	"cartwright/infra/problem"
	"cartwright/infra/token"
	"cartwright/readapi"
	"cartwright/writeapi"
)

var quiet = slog.New(slog.DiscardHandler)

// engine is what serves both APIs, or one of them.
func engine(t *testing.T, write *writeapi.Config, read *readapi.Config) *gin.Engine {
	t.Helper()
	gin.SetMode(gin.TestMode)
	text, err := openapi.Document()
	if err != nil {
		t.Fatal(err)
	}
	r, err := httpedge.New(httpedge.Config{Log: quiet, OpenAPI: text})
	if err != nil {
		t.Fatal(err)
	}
	if write != nil {
		write.Log, write.DigestSecret = quiet, []byte("0123456789abcdef")
		if err := writeapi.Routes(r, *write); err != nil {
			t.Fatal(err)
		}
	}
	if read != nil {
		read.Log, read.CursorSecret = quiet, []byte("0123456789abcdef")
		if err := readapi.Routes(r, *read); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func load(t *testing.T) document {
	t.Helper()
	text, err := openapi.Document()
	if err != nil {
		t.Fatal(err)
	}
	var doc document
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// A promise is an operation of the document.
type promise struct {
	method, path string
	op           object
}

func (d document) promises() []promise {
	var all []promise
	for path := range d.at("paths") {
		for method := range d.at("paths", path) {
			all = append(all, promise{strings.ToUpper(method), path, d.at("paths", path, method)})
		}
	}
	return all
}

func TestTheDocumentIsTheSameTwice(t *testing.T) {
	first, err := openapi.Document()
	if err != nil {
		t.Fatal(err)
	}
	second, err := openapi.Document()
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("it is not (%v)", err)
	}
	if got := load(t)["openapi"]; got != "3.1.0" {
		t.Errorf("it says %s", got)
	}
}

func TestEverySchemaThatIsNamedIsThereAndOthersAreNot(t *testing.T) {
	text, err := openapi.Document()
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, m := range regexp.MustCompile(`#/components/schemas/([A-Za-z]+)`).FindAllSubmatch(text, -1) {
		named[string(m[1])] = true
	}
	there := load(t).at("components", "schemas")
	for name := range named {
		if there[name] == nil {
			t.Errorf("there is no schema %s", name)
		}
	}
	for name := range there {
		if !named[name] {
			t.Errorf("nothing names the schema %s", name)
		}
	}
}

var parameterForm = regexp.MustCompile(`:([a-z_]+)`)

func TestTheDocumentHasEveryRouteAndNoOther(t *testing.T) {
	w := newWorld(t)
	var served []string
	for _, route := range engine(t, &w.write, &w.read).Routes() {
		served = append(served, route.Method+" "+parameterForm.ReplaceAllString(route.Path, "{$1}"))
	}
	var promised []string
	for _, p := range load(t).promises() {
		promised = append(promised, p.method+" "+p.path)
	}
	slices.Sort(served)
	slices.Sort(promised)
	if diff := cmp.Diff(promised, served); diff != "" {
		t.Errorf("promised and not served (-), served and not promised (+):\n%s", diff)
	}
}

func TestEachAPIAlsoStandsAlone(t *testing.T) {
	w := newWorld(t)
	both := len(engine(t, &w.write, &w.read).Routes())
	write, read := len(engine(t, &w.write, nil).Routes()), len(engine(t, nil, &w.read).Routes())
	if probes := 3; write+read-probes != both || write <= probes || read <= probes {
		t.Errorf("%d routes to write, %d to read, %d together", write, read, both)
	}
}

func TestEverySlugIsOneThereIs(t *testing.T) {
	known := problem.Catalogue()
	for _, slug := range openapi.Slugs() {
		if known[slug] == "" {
			t.Errorf("%s is not in the catalogue", slug)
		}
	}
}

func TestEveryOperationIsDescribed(t *testing.T) {
	ids := map[any]bool{}
	for _, p := range load(t).promises() {
		id, tags := p.op["operationId"], p.op["tags"].([]any)
		if p.op["summary"] == "" || id == "" || ids[id] || len(tags) != 1 {
			t.Errorf("%s %s: its summary is %q, its id %q, its tags %q", p.method, p.path, p.op["summary"], id, tags)
		}
		ids[id] = true
		if p.method != http.MethodGet && p.op["requestBody"] == nil {
			t.Errorf("%s %s: what does it take?", p.method, p.path)
		}
		for _, one := range p.op["parameters"].([]any) {
			param, _ := one.(object)
			if at(param, "schema") == nil || (param["in"] != "path" && param["description"] == "") {
				t.Errorf("%s %s: the parameter %v is not described", p.method, p.path, param["name"])
			}
		}
	}
}

// A parameter is known to the server where the document has it, and nowhere else.
func TestQueriesTakeTheParametersOfTheDocument(t *testing.T) {
	w := newWorld(t)
	c := &client{world: w, doc: load(t), h: engine(t, &w.write, &w.read)}
	takes, all := map[string][]string{}, map[string]bool{}
	for _, p := range c.doc.promises() {
		if p.method != http.MethodGet || !strings.Contains(p.path, "{") {
			continue
		}
		takes[p.path] = nil
		for _, one := range p.op["parameters"].([]any) {
			if param, _ := one.(object); param["in"] == "query" {
				name := fmt.Sprint(param["name"])
				takes[p.path] = append(takes[p.path], name)
				all[name] = true
			}
		}
	}
	if !all["scope"] || len(takes) != 13 {
		t.Fatalf("of %d queries, %v is all they take", len(takes), all)
	}
	for path, names := range takes {
		at := strings.NewReplacer("{order_id}", "0598392000000123456", "{sku}", "tea:1").Replace(path)
		at = regexp.MustCompile(`\{[a-z_]+\}`).ReplaceAllString(at, "1")
		for name := range all {
			want := "/problems/unknown_parameter"
			if slices.Contains(names, name) {
				want = "/problems/invalid_parameter" // it may not be empty
			}
			if _, told := c.ask(http.MethodGet, at+"?"+name+"=", ""); told["type"] != want {
				t.Errorf("%s with an empty %s: got %v, want %s", at, name, told, want)
			}
		}
	}
}

// client checks all it sends and gets against the document.
type client struct {
	*world
	doc document
	h   http.Handler
	n   int
}

func (c *client) ask(method, path, body string, header ...string) (*httptest.ResponseRecorder, map[string]any) {
	c.t.Helper()
	req := httptest.NewRequestWithContext(c.t.Context(), method, path, strings.NewReader(body))
	if method == http.MethodPost {
		c.n++
		req.Header.Set("Idempotency-Key", fmt.Sprintf("k%d", c.n))
	}
	if method != http.MethodGet {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, req)
	c.check(req, body, w)
	var told map[string]any
	if !strings.Contains(w.Header().Get("Content-Type"), "json") {
		return w, nil
	}
	if err := json.Unmarshal(w.Body.Bytes(), &told); err != nil && w.Body.Len() > 0 {
		c.t.Fatalf("%s %s: %s: %v", method, path, w.Body, err)
	}
	return w, told
}

// operation finds what is promised of a path.
func (c *client) operation(method, path string) object {
	for _, p := range c.doc.promises() {
		form := regexp.MustCompile(`\\\{[a-z_]+\\\}`).ReplaceAllString(regexp.QuoteMeta(p.path), "[^/]+")
		if p.method == method && regexp.MustCompile("^"+form+"$").MatchString(path) {
			return p.op
		}
	}
	return nil
}

func (c *client) check(req *http.Request, body string, w *httptest.ResponseRecorder) {
	c.t.Helper()
	what := req.Method + " " + req.URL.String()
	op := c.operation(req.Method, req.URL.Path)
	if op == nil {
		c.t.Fatalf("%s is not promised", what)
	}
	if asks := at(op, "requestBody", "content"); body != "" && w.Code < 300 && at(asks, "*/*") == nil {
		c.fits(at(asks, "application/json", "schema"), body, what+" asks")
	}
	response := at(op, "responses", strconv.Itoa(w.Code))
	if response == nil {
		c.t.Errorf("%s: an answer of %d is not promised: %s", what, w.Code, w.Body)
		return
	}
	if w.Body.Len() > 0 {
		media, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
		c.answers(at(response, "content"), media, w.Body.String(), what+" answers")
	}
	for _, name := range []string{"ETag", "Cartwright-Token", "Idempotent-Replayed", "Location", "Content-Disposition"} {
		if w.Code != http.StatusNotModified && w.Header().Get(name) != "" && at(response, "headers", name) == nil {
			c.t.Errorf("%s: %s is not promised", what, name)
		}
	}
	if w.Header().Get("Content-Type") == problem.ContentType {
		c.slug(response, w, what)
	}
}

// answers checks a body by its media type. What is no JSON has no shape to fit,
// but must be promised.
func (c *client) answers(content object, media, text, what string) {
	c.t.Helper()
	switch {
	case content[media] != nil && strings.HasSuffix(media, "json"):
		c.fits(at(content, media, "schema"), text, what)
	case content[media] == nil && content["*/*"] == nil:
		c.t.Errorf("%s %s as %s, of which nothing is promised", what, text, media)
	}
}

func (c *client) slug(response object, w *httptest.ResponseRecorder, what string) {
	c.t.Helper()
	var doc problem.Document
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		c.t.Fatal(err)
	}
	slugs, _ := response["x-slugs"].([]any)
	if slug := strings.TrimPrefix(doc.Type, "/problems/"); !slices.Contains(slugs, any(slug)) {
		c.t.Errorf("%s: %d %s is not promised, only %v", what, w.Code, slug, slugs)
	}
}

func (c *client) fits(schema object, text, what string) {
	c.t.Helper()
	if schema == nil {
		c.t.Errorf("%s %s, of which nothing is promised", what, text)
		return
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		c.t.Fatalf("%s %s: %v", what, text, err)
	}
	for _, misfit := range c.doc.misfits(schema, v, "") {
		c.t.Errorf("%s %s: %s", what, text, misfit)
	}
}

// TestWhatTheServerSaysFitsTheDocument leads orders through all there is, and
// looks at every answer.
func TestWhatTheServerSaysFitsTheDocument(t *testing.T) {
	w := newWorld(t)
	c := &client{world: w, doc: load(t), h: engine(t, &w.write, &w.read)}
	must := func(status int, method, path, body string, header ...string) map[string]any {
		t.Helper()
		rec, told := c.ask(method, path, body, header...)
		if rec.Code != status {
			t.Fatalf("%s %s: got %d %s, want %d", method, path, rec.Code, rec.Body, status)
		}
		return told
	}
	const offer = `{"seller_id":"s1","title":"绿茶","specs":{"色":"绿"},"unit_price":{"amount":100,"currency":"CNY"},"freight":{"amount":5,"currency":"CNY"},"on_sale":true}`
	must(201, "PUT", "/v1/skus/tea:1", offer)
	must(200, "PUT", "/v1/skus/tea:1", offer)
	must(428, "PUT", "/v1/skus/tea:1", strings.Replace(offer, "100", "110", 1))
	must(412, "PUT", "/v1/skus/tea:1", strings.Replace(offer, "100", "110", 1), "If-Match", `"v1"`)
	must(409, "PUT", "/v1/skus/tea:1", strings.Replace(offer, "s1", "s2", 1), "If-Match", `"v2"`)
	must(201, "PUT", "/v1/skus/pot:1", strings.Replace(offer, "s1", "s2", 1))
	for _, sku := range []string{"tea:1", "pot:1"} {
		must(201, "POST", "/v1/inventory/"+sku+"/receipts", `{"quantity":100,"reference":"po-1"}`)
	}
	must(201, "POST", "/v1/inventory/tea:1/adjustments", `{"on_hand":-1,"unavailable":2,"reason":"broken"}`)
	must(428, "POST", "/v1/inventory/tea:1/counts", `{"on_hand":99,"reason":"stocktake"}`)
	must(201, "POST", "/v1/inventory/tea:1/counts", `{"on_hand":99,"reason":"stocktake"}`, "If-Match", `"v2"`)
	must(200, "PUT", "/v1/inventory/tea:1/policy", `{"safety":1,"backorder_limit":0}`)
	must(201, "POST", "/v1/accounts", `{"account_id":"123456","currency":"CNY"}`)
	must(409, "POST", "/v1/accounts", `{"account_id":"123456","currency":"USD"}`)
	must(422, "POST", "/v1/accounts/123456/withdrawals", `{"amount":{"amount":1,"currency":"CNY"}}`)
	must(201, "POST", "/v1/accounts/123456/deposits", `{"amount":{"amount":10000,"currency":"CNY"},"reference":"bank"}`)
	must(201, "POST", "/v1/accounts/123456/withdrawals", `{"amount":{"amount":1,"currency":"CNY"}}`)

	const address = `{"name":"李雷","phone":"1","line1":"1 Road","line2":"2","city":"Beijing","region":"x","postal_code":"1","country":"CN"}`
	checkout := func(items string) (id string) {
		t.Helper()
		id = fmt.Sprint(must(201, "POST", "/v1/order-ids", `{"buyer_id":"123456"}`)["order_id"])
		must(201, "POST", "/v1/checkouts", `{"order_id":"`+id+`","buyer_id":"123456","items":[`+items+`],"address":`+address+`}`)
		return id
	}
	tea, pot := `{"sku":"tea:1","quantity":3}`, `{"sku":"pot:1","quantity":1}`
	id, cancelled, refunded := checkout(tea), checkout(tea+","+pot), checkout(pot)
	for slug, items := range map[string]string{"out_of_stock": `{"sku":"tea:1","quantity":1000}`, "unknown_sku": `{"sku":"none","quantity":1}`} {
		next := fmt.Sprint(must(201, "POST", "/v1/order-ids", `{"buyer_id":"123456"}`)["order_id"])
		_, told := c.ask("POST", "/v1/checkouts", `{"order_id":"`+next+`","buyer_id":"123456","items":[`+items+`],"address":`+address+`}`)
		if told["type"] != "/problems/"+slug {
			t.Errorf("%s: got %v", slug, told)
		}
	}
	at := "/v1/orders/" + id
	must(200, "PUT", at+"/address", address, "If-Match", `"v1"`)
	must(409, "POST", at+"/parcels", `{"lines":[{"line":1,"quantity":1}]}`)
	must(200, "POST", "/v1/checkouts/"+id+"/pay", ``)
	must(409, "POST", "/v1/checkouts/"+id+"/pay", `{}`)
	w.settle(id)
	must(201, "POST", at+"/parcels", `{"lines":[{"line":1,"quantity":1}],"waybill":{"carrier":"SF","number":"1"}}`)
	must(201, "POST", at+"/parcels", `{"lines":[{"line":1,"quantity":1}]}`)
	must(200, "POST", at+"/parcels/2/unpack", `{}`)
	must(201, "POST", at+"/parcels", `{"lines":[{"line":1,"quantity":1}]}`)
	must(428, "PUT", at+"/parcels/3/waybill", `{"carrier":"SF","number":"2"}`)
	must(200, "PUT", at+"/parcels/3/waybill", `{"carrier":"SF","number":"2"}`, "If-None-Match", "*")
	must(412, "PUT", at+"/parcels/3/waybill", `{"carrier":"SF","number":"3"}`, "If-None-Match", "*")
	must(200, "PUT", at+"/parcels/3/waybill", `{"carrier":"SF","number":"3"}`, "If-Match", `"v1"`)
	must(404, "POST", at+"/parcels/9/delivered", ``)
	must(201, "POST", at+"/refunds", `{"lines":[{"line":1,"quantity":1}],"reason":"late","by":"s1","restock":true}`)
	must(200, "POST", at+"/parcels/1/delivered", ``)
	must(200, "POST", at+"/parcels/3/delivered", ``)
	must(200, "POST", at+"/complete", ``)
	must(409, "POST", at+"/cancel", `{"reason":"buyer"}`)
	must(422, "POST", at+"/refunds", `{"lines":[{"line":1,"amount":{"amount":1,"currency":"USD"}}]}`)
	must(422, "POST", at+"/refunds", `{"lines":[{"line":1,"amount":{"amount":100000,"currency":"CNY"}}]}`)
	must(200, "POST", "/v1/orders/"+cancelled+"/cancel", `{"reason":"buyer","by":"123456","note":"too late"}`)
	must(200, "POST", "/v1/checkouts/"+refunded+"/pay", `{"expected_amount":{"amount":105,"currency":"CNY"}}`)
	must(200, "POST", "/v1/orders/"+refunded+"/cancel", `{"reason":"operator"}`)
	must(404, "POST", "/v1/orders/0598392000000123456/complete", ``)

	must(503, "GET", "/v1/sellers/s1/orders", ``, token.Header, token.Encode(map[string]event.Revision{"order-" + id: 1}))
	w.project()
	for _, path := range []string{
		"/v1/skus/tea:1", "/v1/inventory/tea:1", "/v1/accounts/123456", "/v1/accounts/123456/entries?limit=2",
		at, "/v1/orders/" + cancelled, "/v1/orders/" + refunded, "/v1/buyers/123456/orders?limit=2", "/v1/buyers/123456/orders?status=cancelled",
		"/v1/buyers/123456/orders?scope=all", "/v1/buyers/123456/orders?scope=recent", "/v1/sellers/s1/orders?scope=archive&limit=1",
		"/v1/sellers/s1/orders?q=%E7%BB%BF%E8%8C%B6", "/v1/sellers/s1/summary", "/v1/sellers/s1/summary?interval=month", "/v1/sellers/none/summary?interval=day",
		"/healthz", "/readyz", "/v1/openapi.json",
	} {
		rec, _ := c.ask("GET", path, ``)
		if tag := rec.Header().Get("ETag"); tag != "" {
			must(304, "GET", path, ``, "If-None-Match", tag)
		}
		if rec.Code != http.StatusOK {
			t.Errorf("%s: got %d %s", path, rec.Code, rec.Body)
		}
	}
	for path, status := range map[string]int{
		"/v1/skus/none": 404, "/v1/inventory/none": 404, "/v1/accounts/none": 404, "/v1/accounts/none/entries": 404, "/v1/orders/0598392000000123456": 404,
		"/v1/skus/a%20b": 400, "/v1/orders/1": 400, "/v1/buyers/1/orders?limit=0": 400, "/v1/sellers/1/orders?x=1": 400, "/v1/sellers/1/summary?interval=x": 400,
		"/v1/buyers/1/orders?cursor=x": 400, "/v1/sellers/1/orders?scope=hot": 400, "/v1/accounts/1/entries?cursor=x": 400,
	} {
		must(status, "GET", path, ``)
	}
	list := must(200, "GET", "/v1/buyers/123456/orders?limit=2", ``)
	if items, _ := list["items"].([]any); len(items) != 2 || list["next_cursor"] == nil {
		t.Errorf("got %v", list)
	}
}
